/* Targets that are more than one class: values, several labels of a sample, classes at positions. What is given and what is
   suggested, as a reader sees it; labels of one class are shown the same way. */

const ANSWERS = ["no", "yes"];

/** What is given or suggested, by its number: a label, a value, yes or no, or the class at a position. */
function answerName(number) {
  if (LABELLED) return labelName(number);
  if (TARGETS.kind === "values") return tick(number);
  if (TARGETS.kind === "multi-label") return ANSWERS[number];
  return TARGETS.names?.[number] ?? String(number);
}

/** The number of what is given; undefined where it is not known. */
function givenAnswer(row) {
  const number = LABELLED ? TABLE.given[row] : TARGETS ? TABLE.given_target[row] : undefined;
  return number === NO_LABEL || Number.isNaN(number) ? undefined : number;
}

/** The number of what is suggested, where it differs from what is given. */
function suggestion(row) {
  const number = LABELLED ? TABLE.suggested?.[row] : TARGETS ? TABLE.suggested_target[row] : undefined;
  return number === givenAnswer(row) || Number.isNaN(number) ? undefined : number;
}

/** Which class, column or position of a sample is shown, in full or (where there is little room) short; null where there is
    one only. */
function placeOf(row, full = true) {
  for (const kind of ["class", "column", "position"]) {
    if (!TABLE[kind] || Number.isNaN(TABLE[kind][row])) continue;
    const number = TABLE[kind][row];
    if (kind === "class") return TARGETS.names?.[number] ?? `class ${number}`;
    return kind === "column" ? `column ${number}` : full ? positionName(number) : positionShort(number);
  }
  return null;
}

/** A position as it is counted in the target: of images by row and column. */
function positionName(number) {
  const columns = TARGETS.shape[1];
  return inRows(number) ? `row ${Math.floor(number / columns)}, column ${number % columns}` : `position ${number}`;
}

const inRows = (number) => TARGETS.shape.length === 2 && TARGETS.shape[0] * TARGETS.shape[1] > number;

/** The same in a few characters: "(3, 12)", "at 17". */
function positionShort(number) {
  const columns = TARGETS.shape[1];
  return inRows(number) ? `(${Math.floor(number / columns)}, ${number % columns})` : `at ${number}`;
}

/** "cat: no → yes" for eyes; null where nothing is known of the target. */
function targetPair(row) {
  const given = givenAnswer(row);
  if (given === undefined) return null;
  const place = placeOf(row, false);
  const pair = element("span", { class: "labels" }, place ? element("span", { class: "quiet", text: `${place}: ` }) : null, element("span", { class: "given", text: answerName(given) }));
  const other = suggestion(row);
  if (other !== undefined) pair.append(element("span", { class: "quiet", text: " → " }), element("span", { class: "suggested", text: answerName(other) }));
  return pair;
}

/** The same for a screen reader. */
function targetName(row) {
  const [given, other, place] = [givenAnswer(row), suggestion(row), placeOf(row)];
  if (given === undefined) return null;
  return [place, `given ${answerName(given)}`, other === undefined ? null : `suggested ${answerName(other)}`].filter(Boolean).join(", ");
}

/** Facts about a target: [name, value, note]. */
function targetFacts(row) {
  if (!TARGETS || givenAnswer(row) === undefined) return [];
  const [given, suggested] = [TABLE.given_target[row], TABLE.suggested_target[row]];
  const shown = [["shown", placeOf(row), TARGETS.kind === "values" ? "where it departs most" : "where it is contradicted most"], ["given", answerName(given), null]];
  if (TARGETS.kind === "values") {
    return [...shown, ["predicted", answerName(suggested), `± ${tick(TABLE.spread[row])}, mean and spread over training`], ["given − predicted", signed(TABLE.residual[row]), `${tick(TABLE.evidence[row])} times what is usual`]];
  }
  const against = TARGETS.kind === "positions" ? TABLE.strongest[row] : TABLE.evidence[row];
  const others = TARGETS.kind === "positions" ? `${percent(TABLE.disagree[row])} of its positions` : counted(TABLE.disagree[row], "class").replace("classs", "classes");
  return [...shown, ["suggested", answerName(suggested), `${signed(against)}: its probability less that of the given one`], ["contradicted", others, null]];
}

/** What can be marked as right: a label, a value, yes or no, a class. */
function answerInput(row) {
  const now = marks.get(TABLE.id[row])?.label ?? suggestion(row) ?? givenAnswer(row);
  const names = LABELLED ? DATA.labels.names : TARGETS.kind === "multi-label" ? ANSWERS : TARGETS.kind === "positions" ? TARGETS.names : null;
  const input = names ? element("select", {}) : element("input", { type: "text", inputmode: "decimal", size: 10, autocomplete: "off" });
  input.setAttribute("aria-label", LABELLED ? "Right label" : "Right answer");
  if (names) choices(input, names.map((name, code) => [code, name]));
  input.value = names || TARGETS.kind === "positions" ? String(now) : String(Number(now.toPrecision(6)));
  return input;
}

/** A sample's picture or tokens with the position that is shown marked on it; null where there is nothing to mark. */
function spotted(id, full) {
  const row = ROW_OF.get(id);
  if (!TARGETS?.shape || row === undefined || !Number.isFinite(TABLE.position[row])) return null;
  const at = SHOWN.train.places.get(id);
  const tokens = SHOWN.train.tokens?.[at];
  if (tokens) return tokensView(id, full, tokens.places.indexOf(TABLE.position[row] - TARGETS.shift));
  const place = SHOWN.train.pictures?.[at] ?? -1;
  if (!full || place < 0 || TARGETS.shape.length !== 2) return null;
  const [rows, columns] = TARGETS.shape;
  const [x, y] = [(TABLE.position[row] % columns) + 0.5, Math.floor(TABLE.position[row] / columns) + 0.5];
  const [wide, high] = [SIZES[2 * place], SIZES[2 * place + 1]];
  const spot = element("span", { class: "spot", title: positionName(TABLE.position[row]) });
  const share = (part, side) => 50 + ((100 * part - 50) * side) / Math.max(wide, high); // the picture is fitted into a square
  spot.style.left = `${share(x / columns, wide)}%`;
  spot.style.top = `${share(y / rows, high)}%`;
  return element("span", { class: "spotted" }, thumbnail(place, `Sample ${id}, ${positionName(TABLE.position[row])} marked`), spot);
}
