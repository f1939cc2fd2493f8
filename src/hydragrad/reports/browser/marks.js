/* What the reader decided about samples: fixed (another label is right) or fine (the given one is). Stored by the browser
   where it lets files store anything, and saved as files for `hydragrad clean RUN --labels FILE`. */

const MARKS_KEY = `hydragrad ${DATA.run.digest}`;
const marks = new Map(); // id -> {mark: "fixed" | "fine", label: code}
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

/** Mark a sample as fixed, with the code of the right label. */
function markFixed(id, label) {
  const row = ROW_OF.get(id);
  if (label === NO_LABEL || label === undefined) return false;
  if (TABLE.given && TABLE.given[row] === label) return markFine(id);
  marks.set(id, { mark: "fixed", label });
  changed(id);
  return true;
}

function markFine(id) {
  marks.set(id, { mark: "fine", label: TABLE.given ? TABLE.given[ROW_OF.get(id)] : NO_LABEL });
  changed(id);
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
    const given = TABLE.given ? TABLE.given[ROW_OF.get(id)] : NO_LABEL;
    const value = (code) => (code === NO_LABEL ? null : DATA.labels.values[code]);
    return { sample: id, mark, given_label: value(given), label: value(label), given_name: labelName(given), name: labelName(label) };
  });
}

function marksAsJson() {
  const head = { format: "hydragrad marks", version: 1, run: DATA.run.digest, samples: DATA.run.samples, query: DATA.query };
  return `${JSON.stringify({ ...head, marks: markedRows() }, null, 1)}\n`;
}

function marksAsCsv() {
  const names = ["sample", "mark", "given_label", "label", "given_name", "name", "run"];
  // Quoted throughout, and no cell starts a formula in a spreadsheet.
  const cell = (value) => `"${String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  return [names.join(","), ...markedRows().map((row) => names.map((name) => cell({ ...row, run: DATA.run.digest }[name])).join(","))].join("\r\n") + "\r\n";
}

function markTally() {
  const fixed = [...marks.values()].filter(({ mark }) => mark === "fixed").length;
  return { fixed, fine: marks.size - fixed };
}
