/* What the reader decided about samples: fixed (another label, value or class is right) or fine (the given one is). Stored
   by the browser where it lets files store anything, and saved as files; those about labels are for
   `hydragrad clean RUN --labels FILE`. */

const MARKS_KEY = `hydragrad ${DATA.run.digest}`;
const marks = new Map(); // id -> {mark: "fixed" | "fine", label: code or, of other targets, number}
const markListeners = [];

function recallMarks() {
  try {
    for (const [id, mark] of JSON.parse(localStorage.getItem(MARKS_KEY) ?? "[]")) if (ROW_OF.has(id)) marks.set(id, mark);
  } catch {
    // Some browsers store nothing for files that are opened from disk.
  }
}

function changed(id) {
  try {
    localStorage.setItem(MARKS_KEY, JSON.stringify([...marks]));
  } catch {
    // As above.
  }
  markListeners.forEach((listener) => listener(id));
}

/** Mark a sample as fixed, with the code of the right label, or the number of what else is right. */
function markFixed(id, answer) {
  if (!setMark(id, "fixed", answer)) return false;
  changed(id);
  return true;
}

function markFine(id) {
  if (!setMark(id, "fine")) return false;
  changed(id);
  return true;
}

/** Mark many samples alike: as fixed, each with what is suggested for it, as fine, or (null) not at all. */
function markAll(ids, mark) {
  for (const id of ids) {
    if (mark) setMark(id, mark, suggestion(ROW_OF.get(id)));
    else marks.delete(id);
  }
  changed(null);
}

function setMark(id, mark, answer) {
  const given = givenAnswer(ROW_OF.get(id));
  if (given === undefined || (mark === "fixed" && (answer === NO_LABEL || answer === undefined || !Number.isFinite(answer)))) return false;
  marks.set(id, mark === "fine" || answer === given ? { mark: "fine", label: given } : { mark, label: answer });
  return true;
}

function unmark(id) {
  marks.delete(id);
  changed(id);
  return true;
}

function forgetMarks() {
  marks.clear();
  changed(null);
}

/** Marks in the order of the samples, with labels as they stand in the data and as they are called. */
function markedRows() {
  const ids = [...marks.keys()].sort((a, b) => a - b);
  return ids.map((id) => {
    const { mark, label } = marks.get(id);
    const row = ROW_OF.get(id);
    if (!LABELLED) return markedTarget(id, row, mark, label);
    const value = (code) => (code === NO_LABEL ? null : DATA.labels.values[code]);
    return { sample: id, mark, given_label: value(TABLE.given[row]), label: value(label), given_name: labelName(TABLE.given[row]), name: labelName(label) };
  });
}

const PLACES = ["class", "column", "position"].filter((kind) => TABLE[kind]);

function markedTarget(id, row, mark, number) {
  const place = Object.fromEntries(PLACES.map((kind) => [kind, TABLE[kind][row]]));
  return { sample: id, mark, ...place, given_target: TABLE.given_target[row], target: number };
}

function marksAsJson() {
  const head = { format: "hydragrad marks", version: 1, run: DATA.run.digest, samples: DATA.run.samples, query: DATA.query };
  return `${JSON.stringify({ ...head, ...(LABELLED ? {} : { kind: TARGETS.kind }), marks: markedRows() }, null, 1)}\n`;
}

function marksAsCsv() {
  const names = LABELLED ? ["sample", "mark", "given_label", "label", "given_name", "name", "run"] : ["sample", "mark", ...PLACES, "given_target", "target", "run"];
  // Quoted throughout, and no cell starts a formula in a spreadsheet.
  const cell = (value) => `"${(typeof value === "number" ? String(value) : String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&")).replaceAll('"', '""')}"`;
  return [names.join(","), ...markedRows().map((row) => names.map((name) => cell({ ...row, run: DATA.run.digest }[name])).join(","))].join("\r\n") + "\r\n";
}

function markTally() {
  const fixed = [...marks.values()].filter(({ mark }) => mark === "fixed").length;
  return { fixed, fine: marks.size - fixed };
}
