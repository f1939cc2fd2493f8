/* The report's data: one block of JSON in the page, its columns of numbers unpacked into typed arrays. */

const ARRAYS = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i4: Int32Array, f4: Float32Array, f8: Float64Array };

function bytes(base64) {
  const text = atob(base64);
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) result[i] = text.charCodeAt(i);
  return result;
}

/** {kind: base64} as a typed array; null where there is no such column. */
function unpacked(column) {
  if (!column) return null;
  const [kind, text] = Object.entries(column)[0];
  return new ARRAYS[kind](bytes(text).buffer);
}

function unpackedAll(columns) {
  return Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, unpacked(column)]));
}

const DATA = JSON.parse(document.getElementById("data").textContent);
const NO_LABEL = 0xffff;

/* A row a scored sample, the most suspect first: id, contribution, and where known its standard error, given, suggested
   and true labels (codes), flipped, sure_given and sure_suggested (the trained model's probabilities), and sure_unseen
   (of the given label, by models that never saw the sample). */
const TABLE = unpackedAll(DATA.samples);
const ROW_OF = new Map(Array.from(TABLE.id, (id, row) => [id, row]));

function labelName(code) {
  return code === NO_LABEL || code === undefined ? null : DATA.labels.names[code];
}

/* Without labels samples are ranked by contribution, and there is nothing to mark; targets that are more than one class
   (values, several labels, classes at positions) can be marked like labels. */
const LABELLED = Boolean(TABLE.given);
const TARGETS = DATA.targets;
const MARKABLE = LABELLED || Boolean(TARGETS);

/** A row's label of one kind ("given", "suggested", "true") by name; null where it is not known. */
function labelOf(kind, row) {
  return TABLE[kind] ? labelName(TABLE[kind][row]) : null;
}
