/* What leaving samples out will do to the query: sums of contributions at the scale that was measured by really leaving
   groups out, with a prediction interval; the same formula as scores/amounts.py. */

const REMOVAL = DATA.removal ? { ...DATA.removal, contribution: unpacked(DATA.removal.contribution) } : null;

function predictedRemoval(rows) {
  const { contribution, scale, per_sample, scatter, inverse, quantile, largest, most } = REMOVAL;
  const known = rows.filter((row) => Number.isFinite(contribution[row]));
  const total = known.reduce((sum, row) => sum + contribution[row], 0);
  const samples = known.length;
  const half = quantile * scatter * Math.sqrt(1 + inverse[0] * total ** 2 + 2 * inverse[1] * total * samples + inverse[2] * samples ** 2);
  const change = scale * total + per_sample * samples;
  return { change, low: change - half, high: change + half, beyond: Math.abs(total) > largest || (most !== null && samples > most), samples };
}

/** In words; empty where nothing is left out. */
function removalSentence(rows, what) {
  const { change, low, high, beyond, samples } = predictedRemoval(rows);
  if (!samples) return "";
  const direction = high < 0 ? "falls" : low > 0 ? "rises" : "changes";
  const rough = beyond ? " No group that was tried was as large: take it as rough." : "";
  return `Trained without ${what}, “${DATA.query}” ${direction} by about ${signed(change)} (90% interval ${signed(low)} to ${signed(high)}).${rough}`;
}

function showRemoval() {
  const box = byId("removal");
  if (!REMOVAL) {
    box.hidden = true;
    return;
  }
  byId("leave").addEventListener("input", paintRemoval);
  const kept = REMOVAL.kind === "renormalised" ? "the mean of every batch is taken over the rest" : "the other samples keep their weight in the loss";
  byId("removal-how").textContent = `Computed contributions, at the scale of ${counted(REMOVAL.groups, "group")} that were really left out, where ${kept}.`;
  if (REMOVAL.most !== null) byId("leave").value = Math.min(20, REMOVAL.most);
  byId("leave").max = DATA.run.samples - 1;
}

function paintRemoval() {
  if (!REMOVAL) return;
  const wanted = Math.max(0, Math.min(suspectsList.items.length, DATA.run.samples - 1, Math.round(Number(byId("leave").value)) || 0));
  const first = suspectsList.items.slice(0, wanted);
  byId("removal-how").hidden = !wanted;
  byId("left-out").textContent = wanted ? removalSentence(first, wanted === 1 ? "it" : `these ${count(wanted)}`) : "";
}
