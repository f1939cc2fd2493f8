/* Samples as a reader sees them: a picture cut out of a sheet, a text, or names and values. */

const decoded = new Map(); // sheet -> {image, ready, waiting}

/** Call `draw` with a sheet of thumbnails, at once where it is decoded already. */
function withSheet(number, draw) {
  if (!decoded.has(number)) {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([bytes(DATA.sheets.data[number])], { type: DATA.sheets.type }));
    const entry = { image, ready: false };
    entry.waiting = image.decode().then(() => (entry.ready = true));
    decoded.set(number, entry);
  }
  const { image, ready, waiting } = decoded.get(number);
  if (ready) draw(image);
  else waiting.then(() => draw(image));
}

const SIZES = DATA.sheets ? unpacked(DATA.sheets.sizes) : null;

function thumbnail(place, name) {
  const { width, height, columns, per, data } = DATA.sheets;
  const [w, h] = [SIZES[2 * place], SIZES[2 * place + 1]];
  const canvas = element("canvas", { class: "picture", role: "img", "aria-label": name, width: w, height: h });
  const cell = place % per;
  const [x, y] = [(cell % columns) * width, Math.floor(cell / columns) * height];
  withSheet(Math.floor(place / per), (image) => canvas.getContext("2d").drawImage(image, x, y, w, h, 0, 0, w, h));
  return canvas;
}

/* Which samples of a set ("train", "test") are shown, and where. */
const SHOWN = Object.fromEntries(
  Object.entries(DATA.shown).map(([set, { ids, pictures, texts, rows, tokens }]) => [
    set,
    { places: new Map(Array.from(unpacked(ids), (id, at) => [id, at])), pictures: unpacked(pictures), texts, rows, tokens },
  ]),
);
const HAS_VIEWS = Object.values(SHOWN).some(({ pictures, texts, rows }) => pictures || texts || rows);

const HAS_TEXTS = Boolean(SHOWN.train?.texts);

/** Text of a sample, where it is shown. */
function textOf(set, id) {
  return SHOWN[set]?.texts?.[SHOWN[set].places.get(id)];
}

/** The sample as an element, short (a few words or values) or in full; null where nothing of it is shown. */
function sampleView(set, id, name, full = false) {
  const shown = SHOWN[set];
  const at = shown?.places.get(id);
  if (at === undefined) return HAS_VIEWS ? element("span", { class: "picture none", title: "Not among the samples that are shown", "aria-hidden": "true" }) : null;
  if (shown.pictures && shown.pictures[at] >= 0) return thumbnail(shown.pictures[at], name);
  if (shown.texts?.[at]) return element("span", { class: full ? "words full" : "words", text: shown.texts[at] });
  const row = shown.rows?.[at];
  if (!row) return null;
  const entries = (full ? row : row.slice(0, 3)).map(([column, value]) => element("span", { class: "entry" }, element("span", { class: "quiet", text: `${DATA.columns[column]} ` }), element("span", { text: value })));
  return element("span", { class: full ? "values full" : "values" }, ...entries);
}

/** A training sample's tokens, coloured by their contributions to the report's query; null where they are not known.
    marked: place of one that is framed, -1 for none. */
function tokensView(id, full = false, marked = -1) {
  const shown = SHOWN.train?.tokens?.[SHOWN.train.places.get(id)];
  if (!shown) return null;
  const parts = shown.pieces.map((piece, at) => {
    const share = shown.shares[at];
    if (!share && at !== marked) return piece;
    const part = element(at === marked ? "mark" : "span", { class: share < 0 ? "token harms" : share > 0 ? "token helps" : null, title: share ? amount((share / 100) * shown.largest) : null, text: piece });
    part.style.setProperty("--share", `${Math.abs(share)}%`);
    return part;
  });
  return element("span", { class: full ? "words full" : "words" }, shown.lead ?? "", ...parts);
}

/** A contribution on a card, its standard error in percent of it where that is known. */
function contributionLine(value, error, suffix = DATA.suffix) {
  const share = inPercent(value, error);
  return element("span", { class: value < 0 ? "number harms" : "number helps" }, amount(value, suffix), share ? element("span", { class: "chance", text: share }) : null);
}

/** A bar from the middle: to the right helps, to the left harms. */
function strengthBar(value, largest) {
  const share = largest > 0 ? Math.min(1, Math.abs(value) / largest) : 0;
  const bar = element("span", { class: value < 0 ? "strength harms" : "strength helps", "aria-hidden": "true" });
  bar.style.setProperty("--share", share.toFixed(3));
  return bar;
}
