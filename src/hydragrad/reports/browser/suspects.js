/* Suspects: every scored sample as a card, to be filtered, sorted, inspected and marked. */

/** Compare rows by a column, ascending or (sign -1) descending; NaN comes last. */
function by(column, sign = 1) {
  return (a, b) => {
    const [x, y] = [column[a], column[b]];
    return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : x === y ? 0 : sign * (x - y);
  };
}

const ORDERS = [
  ...(MARKABLE ? [["suspect", "most suspect first", (a, b) => a - b]] : []),
  ["harmful", "most harmful first", by(TABLE.contribution)],
  ["helpful", "most helpful first", by(TABLE.contribution, -1)],
  ...(TABLE.error ? [["certain", "most certainly harmful first", by(TABLE.contribution.map((value, row) => value / TABLE.error[row]))]] : []),
  ...(TABLE.sure_suggested ? [["sure", "model most sure of the suggestion", by(TABLE.sure_suggested, -1)]] : []),
  ...(TABLE.sure_given ? [["doubt", "model doubts the given label most", by(TABLE.sure_given)]] : []),
  ["number", "by number", by(TABLE.id)],
];

const MARKS = [
  ["", "all", () => true],
  ["open", "not marked yet", (id) => !marks.has(id)],
  ["marked", "marked", (id) => marks.has(id)],
  ["fixed", "fixed", (id) => marks.get(id)?.mark === "fixed"],
  ["fine", "fine", (id) => marks.get(id)?.mark === "fine"],
];

let suspectsList;

function showSuspects() {
  suspectsList = new Listing(byId("cards"), {
    label: "Samples",
    width: HAS_TEXTS ? 276 : HAS_VIEWS ? 212 : 180,
    height: HAS_VIEWS ? 96 : 84,
    card: suspectCard,
    name: suspectName,
    selected: (row, opened) => showDetail(row, opened),
    key: suspectKey,
  });
  fillTools();
  byId("suspects-lead").textContent = suspectsLead();
  byId("export-json").addEventListener("click", () => save(`${DATA.run.name}-marks.json`, "application/json", marksAsJson()));
  byId("export-csv").addEventListener("click", () => save(`${DATA.run.name}-marks.csv`, "text/csv", marksAsCsv()));
  byId("forget").addEventListener("click", () => window.confirm(`Forget ${counted(marks.size, "mark")}?`) && forgetMarks());
  markListeners.push(showMarks);
  showRemoval();
  filterSuspects();
  showMarks(null);
}

const TARGET_LEADS = {
  values: "the given value → the one that the model predicted, on average over training",
  "multi-label": "the class whose answer is most doubtful, and whether the sample has it: given → suggested",
  positions: "the position that is contradicted most, and its class: given → suggested",
};

function suspectsLead() {
  const labels = TARGETS ? TARGET_LEADS[TARGETS.kind] : TABLE.suggested ? "the given label → the suggested one" : TABLE.given ? "the given label" : "";
  const model = TABLE.sure_given ? " (and how sure of it the trained model is); " : labels && "; ";
  const shaded = SHOWN.train.tokens?.some((entry) => entry?.largest);
  const tokens = shaded ? " Tokens that helped are blue, those that harmed orange and dotted." : "";
  const marked = TARGETS ? " Mark what is wrong as fixed and the rest as fine, save the marks, and correct your data." : TABLE.given ? " Mark labels as fixed or fine, save the marks, and train again: hydragrad clean RUN --labels FILE." : "";
  return `A card shows ${labels}${model}the contribution to “${DATA.query}”, where positive helps${DATA.suffix ? ", in percent of the sum of all sizes" : ""}${TABLE.error ? ", ± its standard error in percent" : ""}.${tokens}${marked}`;
}

function fillTools() {
  choices(byId("order"), ORDERS.map(([value, text]) => [value, text]));
  choices(byId("marked"), MARKS.map(([value, text]) => [value, text]));
  const labels = DATA.labels.names.map((name, code) => [code, name]);
  choices(byId("given"), [["", "all"], ...labels]);
  choices(byId("suggested"), [["", "all"], ["other", "another one"], ...labels]);
  if (!TABLE.given) byId("given").parentElement.hidden = true;
  for (const marking of document.querySelectorAll(".marking")) marking.hidden = !MARKABLE || (marking.classList.contains("labelled") && !LABELLED);
  if (!HAS_TEXTS) byId("text-tool").hidden = true;
  if (!TABLE.suggested) byId("suggested-tool").hidden = true;
  for (const id of ["order", "given", "suggested", "marked"]) byId(id).addEventListener("change", filterSuspects);
  for (const id of ["number", "words"]) byId(id).addEventListener("input", filterSuspects);
}

function filterSuspects() {
  const [given, suggested, wanted] = ["given", "suggested", "number"].map((id) => byId(id).value.trim());
  const words = byId("words").value.toLowerCase();
  const inMarks = MARKS.find(([value]) => value === byId("marked").value)[2];
  const rows = [];
  for (let row = 0; row < TABLE.id.length; row += 1) {
    if (given && TABLE.given[row] !== Number(given)) continue;
    if (suggested === "other" ? TABLE.suggested[row] === TABLE.given[row] : suggested && TABLE.suggested[row] !== Number(suggested)) continue;
    if (wanted && !String(TABLE.id[row]).startsWith(wanted)) continue;
    if (words && !textOf("train", TABLE.id[row])?.toLowerCase().includes(words)) continue;
    if (inMarks(TABLE.id[row])) rows.push(row);
  }
  const order = ORDERS.find(([value]) => value === byId("order").value);
  if (order[0] !== "suspect") rows.sort((a, b) => order[2](a, b) || a - b);
  suspectsList.show(rows);
  paintRemoval();
  byId("count").textContent = rows.length === TABLE.id.length ? `${counted(rows.length, "sample")}` : `${count(rows.length)} of ${counted(TABLE.id.length, "sample")}`;
  if (rows.length) showDetail(rows[0], false);
  else byId("detail").replaceChildren();
}

function markOf(id) {
  const mark = marks.get(id);
  if (!mark) return null;
  return mark.mark === "fine" ? "✓ fine" : `✎ fixed: ${answerName(mark.label)}`;
}

/** "7 2% → 1 92%" for eyes; screen readers get the card's name. */
function labelPair(row, chances = true) {
  if (TARGETS) return targetPair(row);
  const [given, suggested] = [labelOf("given", row), labelOf("suggested", row)];
  if (given === null) return null;
  const chance = (column) => (chances && column ? element("span", { class: "chance", text: ` ${sure(column[row])}` }) : null);
  const pair = element("span", { class: "labels" }, element("span", { class: "given", text: given }), chance(TABLE.sure_given));
  if (suggested === null || suggested === given) return pair;
  pair.append(element("span", { class: "quiet", text: " → " }), element("span", { class: "suggested", text: suggested }));
  if (chances && TABLE.sure_suggested) pair.append(chance(TABLE.sure_suggested));
  return pair;
}

function contributionOf(row) {
  return uncertain(TABLE.contribution[row], TABLE.error?.[row]);
}

const CERTAIN = 2; // standard errors away from zero

function effectOf(row) {
  const value = TABLE.contribution[row];
  if (TABLE.error && Math.abs(value) < CERTAIN * TABLE.error[row]) return `may be nothing: less than ${CERTAIN} standard errors from 0`;
  return value < 0 ? "harms" : value > 0 ? "helps" : null;
}

function truthOf(row) {
  if (!TABLE.flipped) return null;
  const name = labelOf("true", row);
  return TABLE.flipped[row] ? `✗ wrong${name === null ? "" : `, truly ${name}`}` : LABELLED ? "✓ label is right" : "✓ right";
}

function suspectCard(row, card) {
  const id = TABLE.id[row];
  const mark = markOf(id);
  card.classList.toggle("fixed", marks.get(id)?.mark === "fixed");
  card.classList.toggle("fine", marks.get(id)?.mark === "fine");
  const text = element(
    "span",
    { class: "text" },
    labelPair(row),
    contributionLine(TABLE.contribution[row], TABLE.error?.[row]),
    mark ? element("span", { class: "mark", text: mark }) : element("span", { class: "quiet", text: `sample ${id}` }),
  );
  card.classList.toggle("worded", HAS_TEXTS);
  return [spotted(id) ?? tokensView(id) ?? sampleView("train", id, `Sample ${id}`), text].filter(Boolean);
}

function suspectName(row) {
  const id = TABLE.id[row];
  const [given, suggested] = [labelOf("given", row), labelOf("suggested", row)];
  return [
    `Sample ${id}`,
    given === null ? null : `given label ${given}`,
    suggested === null || suggested === given ? null : `suggested label ${suggested}`,
    TARGETS ? targetName(row) : null,
    `contribution ${contributionOf(row)}`,
    truthOf(row),
    markOf(id),
  ].filter(Boolean).join(", ");
}

function suspectKey(event, row) {
  if (!MARKABLE) return false;
  const id = TABLE.id[row];
  const next = () => suspectsList.go(suspectsList.at + 1);
  if (event.key === "f") return markFixed(id, suggestion(row)) && (next(), true);
  if (event.key === "o") return markFine(id) && (next(), true);
  if (event.key === "u") return unmark(id);
  if (LABELLED && /^[0-9]$/.test(event.key) && Number(event.key) < DATA.labels.names.length) return markFixed(id, Number(event.key)) && (next(), true);
  return false;
}

/** What is known of one sample, and the buttons that mark it. */
function showDetail(row, opened) {
  const id = TABLE.id[row];
  const panel = byId("detail");
  const facts = [
    ["given label", labelOf("given", row), TABLE.sure_given ? `model: ${sure(TABLE.sure_given[row])}` : null],
    ["suggested label", labelOf("suggested", row), TABLE.sure_suggested ? `model: ${sure(TABLE.sure_suggested[row])}` : null],
    ...targetFacts(row),
    ["unseen", TABLE.sure_unseen ? sure(TABLE.sure_unseen[row]) : null, "for the given label, by models trained without it"],
    ["contribution", contributionOf(row), effectOf(row)],
    ["rank", `${count(row + 1)} of ${count(TABLE.id.length)}`, null],
    ["the truth", truthOf(row), null],
    ["mark", markOf(id), null],
  ].filter(([, value]) => value !== null);
  const list = facts.map(([name, value, note]) => element("div", {}, element("dt", { text: name }), element("dd", {}, element("span", { text: value }), note ? element("span", { class: "quiet", text: ` ${note}` }) : null)));
  panel.replaceChildren(
    element("div", { class: "head" }, element("h2", { text: `Sample ${id}` }), element("button", { type: "button", class: "plain close", "aria-label": "Close", text: "✕", onclick: closeDetail })),
    element("div", { class: "close-up" }, spotted(id, true) ?? tokensView(id, true) ?? sampleView("train", id, `Sample ${id}`, true) ?? ""),
    element("dl", {}, ...list),
    markButtons(row),
    timeOf(id) ?? "",
    ...(DATA.explain.tests ? [element("p", {}, element("a", { href: `#explain/train/${id}`, text: "Test samples that it moved" }))] : []),
  );
  if (opened) document.body.classList.add("detail-open");
}

function closeDetail() {
  document.body.classList.remove("detail-open");
  suspectsList.go(suspectsList.at);
}

function markButtons(row) {
  const id = TABLE.id[row];
  if (givenAnswer(row) === undefined) return element("div", { class: "decide" });
  const input = answerInput(row);
  const number = () => (input.value.trim() === "" ? NaN : Number(input.value));
  return element(
    "div",
    { class: "decide", role: "group", "aria-label": "Mark this sample" },
    element("label", {}, LABELLED ? "Right label " : "Right answer ", input),
    element("button", { type: "button", text: "Fixed", onclick: () => markFixed(id, number()) || input.focus() }),
    element("button", { type: "button", text: "Fine", onclick: () => markFine(id) }),
    element("button", { type: "button", class: "plain", text: "Unmark", onclick: () => unmark(id) }),
  );
}

function showMarks(id) {
  const { fixed, fine } = markTally();
  const without = REMOVAL && fixed ? ` ${removalSentence([...marks].filter(([, { mark }]) => mark === "fixed").map(([at]) => ROW_OF.get(at)), "those to be fixed")}` : "";
  byId("tally").textContent = marks.size ? `${count(marks.size)} marked: ${count(fixed)} fixed, ${count(fine)} fine.${without}` : "Nothing is marked yet.";
  for (const button of ["export-json", "export-csv", "forget"]) byId(button).disabled = !marks.size;
  byId("export").classList.toggle("idle", !marks.size);
  if (id === null) {
    suspectsList.empty();
    suspectsList.paint();
  } else suspectsList.refresh(suspectsList.items.indexOf(ROW_OF.get(id)));
  const current = suspectsList.current;
  if (current !== undefined && (id === null || TABLE.id[current] === id)) showDetail(current, false);
}
