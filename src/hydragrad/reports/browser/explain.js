/* Explain: a test sample and the training samples that helped and harmed it; a training sample and the test samples
   that it moved. */

const EXPLAIN = DATA.explain.tests ? readExplanations(DATA.explain) : null;

function readExplanations({ tests, top, back, suffix, notes, misclassified, ...columns }) {
  const table = unpackedAll(columns);
  return {
    ...table,
    tests: unpackedAll(tests),
    top,
    back,
    suffix,
    notes,
    misclassified,
    placeOf: new Map(Array.from(unpacked(tests.id), (id, place) => [id, place])),
    rowOf: new Map(Array.from(table.trained, (id, row) => [id, row])),
  };
}

let testsList;

function showExplain() {
  const body = byId("explain-body");
  if (!EXPLAIN) {
    body.append(element("p", { class: "verdict", text: DATA.explain.how }));
    return;
  }
  body.append(
    element("p", { text: explainLead() }),
    element("p", { class: "quiet", text: EXPLAIN.notes.join(" ") }),
    element(
      "div",
      { class: "tools", role: "group", "aria-label": "Filter and select" },
      ...(EXPLAIN.tests.predicted ? [wrongOnly(), trueLabel()] : []),
      trainingNumber(),
    ),
    element("div", { class: "split explain" }, element("div", { class: "tests", id: "tests-room" }, element("div", { class: "cards", id: "tests" })), element("div", { id: "explained", class: "explained", role: "region", "aria-live": "polite", "aria-label": "Explanation" })),
  );
  testsList = new Listing(byId("tests"), {
    label: "Test samples",
    scroller: byId("tests-room"),
    width: HAS_TEXTS ? 276 : 158,
    height: HAS_TEXTS ? 96 : HAS_VIEWS ? 84 : 68,
    card: testContent,
    name: testName,
    selected: (place, opened) => explainTest(place, opened),
  });
  filterTests();
}

function explainLead() {
  const { tests, misclassified } = EXPLAIN;
  const many = misclassified ? `${count(misclassified[0])} of ${counted(misclassified[1], "prediction")} are wrong. ` : "";
  const order = tests.predicted ? "wrong predictions first" : "the largest losses first";
  return `${many}${counted(tests.id.length, "test sample")} can be explained here, ${order}: which training samples lowered (+) or raised (−) the sample’s own loss${EXPLAIN.suffix ? ", in percent of the sum of all sizes" : ""}${EXPLAIN.helpful_errors ? ", ± the standard error in percent" : ""}. Or select a training sample, and see which test samples it moved.`;
}

function wrongOnly() {
  const box = element("input", { type: "checkbox", id: "wrong-only" });
  box.addEventListener("change", filterTests);
  return element("label", { class: "check" }, box, " only wrong predictions");
}

function trueLabel() {
  const select = element("select", { id: "test-label", onchange: filterTests });
  choices(select, [["", "all"], ...DATA.labels.names.map((name, code) => [code, name])]);
  return element("label", {}, "True label ", select);
}

function trainingNumber() {
  const input = element("input", { type: "text", inputmode: "numeric", size: 7, placeholder: "number", id: "training-number", autocomplete: "off" });
  input.addEventListener("change", () => {
    if (input.value.trim()) location.hash = `#explain/train/${input.value.trim()}`;
  });
  return element("label", {}, "Training sample ", input);
}

function filterTests() {
  const only = byId("wrong-only")?.checked;
  const label = byId("test-label")?.value ?? "";
  const { given, predicted, id } = EXPLAIN.tests;
  const places = Array.from(id, (_, place) => place).filter((place) => (!only || given[place] !== predicted[place]) && (!label || given[place] === Number(label)));
  testsList.show(places);
  if (places.length) explainTest(places[0]);
  else byId("explained").replaceChildren(element("p", { text: "None of the explained test samples is of this kind." }));
}

const testView = (place, full = false) => sampleView("test", EXPLAIN.tests.id[place], `Test sample ${EXPLAIN.tests.id[place]}`, full);

function testContent(place, card) {
  card.classList.toggle("worded", HAS_TEXTS);
  return [testView(place), element("span", { class: "text" }, ...testLines(place))].filter(Boolean);
}

function testLines(place) {
  const { id, given, predicted, sure: chance, loss } = EXPLAIN.tests;
  const number = element("span", { class: "quiet", text: `test ${id[place]}` });
  if (!predicted) return [number, loss ? element("span", { class: "quiet", text: `loss ${tick(loss[place])}` }) : null].filter(Boolean);
  const right = given[place] === predicted[place];
  return [
    element("span", { class: "labels" }, element("span", { class: right ? "given" : "given wrong", text: `${right ? "✓" : "✗"} ${labelName(predicted[place])}` }), element("span", { class: "chance", text: ` ${sure(chance[place])}` })),
    right ? null : element("span", { text: `truly ${labelName(given[place])}` }),
    number,
  ].filter(Boolean);
}

function testName(place) {
  const { id, given, predicted, sure: chance } = EXPLAIN.tests;
  if (!predicted) return `Test sample ${id[place]}`;
  const verdict = given[place] === predicted[place] ? "rightly" : `wrongly, truly ${labelName(given[place])},`;
  return `Test sample ${id[place]}, ${verdict} predicted as ${labelName(predicted[place])}, ${sure(chance[place])} sure`;
}

/** Show what moved one test sample. */
function explainTest(place, opened = false) {
  const { top, helpful, helpful_values, helpful_errors, harmful, harmful_values, harmful_errors } = EXPLAIN;
  const test = EXPLAIN.tests.id[place];
  const range = [place * top, (place + 1) * top];
  const sides = [
    ["Helped most", Array.from(helpful.slice(...range)), helpful_values.slice(...range), helpful_errors?.slice(...range), (value) => value > 0],
    ["Harmed most", Array.from(harmful.slice(...range)), harmful_values.slice(...range), harmful_errors?.slice(...range), (value) => value < 0],
  ];
  const largest = Math.max(...sides.flatMap(([, , values]) => Array.from(values, Math.abs)));
  byId("explained").replaceChildren(
    element("div", { class: "subject" }, testView(place, true) ?? "", element("div", {}, element("h2", { text: `Test sample ${test}` }), element("p", { text: testFacts(place) }))),
    ...sides.map(([title, ids, values, errors, counts]) =>
      movers(
        title,
        ids.map((sample, n) => ({ sample, value: values[n], error: errors?.[n] })).filter(({ value }) => counts(value)),
        ({ sample, value, error }) => trainCard(sample, value, error, largest),
        "No training sample did.",
      ),
    ),
  );
  if (opened) {
    history.replaceState(null, "", `#explain/test/${test}`);
    inSight(byId("explained"));
  }
}

function testFacts(place) {
  const { given, predicted, sure: chance, sure_given, loss } = EXPLAIN.tests;
  const size = loss ? `Its loss is ${tick(loss[place])}.` : "";
  if (!predicted) return size;
  if (given[place] === predicted[place]) return `Rightly predicted as ${labelName(predicted[place])} (${sure(chance[place])}). ${size}`;
  return `Predicted as ${labelName(predicted[place])} (${sure(chance[place])}), truly ${labelName(given[place])} (${sure(sure_given[place])}). ${size}`;
}

function movers(title, items, card, none) {
  const list = items.length ? element("ul", { class: "movers" }, ...items.map((item) => element("li", {}, card(item)))) : element("p", { class: "quiet", text: none });
  return element("section", { "aria-label": title }, element("h3", { text: title }), list);
}

function trainCard(id, value, error, largest) {
  const row = ROW_OF.get(id);
  const lines = [
    row === undefined ? null : labelPair(row, false),
    contributionLine(value, error, EXPLAIN.suffix),
    strengthBar(value, largest),
    element("span", { class: "quiet", text: `sample ${id}` }),
    row !== undefined && TABLE.flipped?.[row] ? element("span", { class: "mark", text: LABELLED ? "✗ wrong label" : "✗ wrong" }) : null,
  ].filter(Boolean);
  return element("a", { class: HAS_TEXTS ? "card still worded" : "card still", href: `#explain/train/${id}` }, sampleView("train", id, `Sample ${id}`) ?? "", element("span", { class: "text" }, ...lines));
}

function testCard(place, value, error, largest) {
  const lines = [...testLines(place), contributionLine(value, error, EXPLAIN.suffix), strengthBar(value, largest)];
  return element("a", { class: HAS_TEXTS ? "card still worded" : "card still", href: `#explain/test/${EXPLAIN.tests.id[place]}` }, testView(place) ?? "", element("span", { class: "text" }, ...lines));
}

/** Show which test samples one training sample moved. */
function explainTraining(id) {
  const { back, helped, helped_values, helped_errors, harmed, harmed_values, harmed_errors, rowOf } = EXPLAIN;
  byId("training-number").value = id;
  const at = rowOf.get(id);
  const box = byId("explained");
  if (at === undefined) {
    box.replaceChildren(element("p", { class: "verdict", text: `Training sample ${id} is not among those whose effect on test samples is in this file.` }));
    return;
  }
  const range = [at * back, (at + 1) * back];
  const sides = [
    ["Test samples that it helped most", helped.slice(...range), helped_values.slice(...range), helped_errors?.slice(...range), (value) => value > 0],
    ["Test samples that it harmed most", harmed.slice(...range), harmed_values.slice(...range), harmed_errors?.slice(...range), (value) => value < 0],
  ];
  const largest = Math.max(...sides.flatMap(([, , values]) => Array.from(values, Math.abs)));
  const row = ROW_OF.get(id);
  const facts = row === undefined ? null : element("p", {}, labelPair(row) ?? "", ` contribution to ${DATA.query}: ${contributionOf(row)}. `, truthOf(row) ?? "");
  box.replaceChildren(
    element("div", { class: "subject" }, sampleView("train", id, `Sample ${id}`, true) ?? "", element("div", {}, element("h2", { text: `Training sample ${id}` }), facts, row === undefined ? null : element("a", { href: `#suspects/${id}`, text: LABELLED ? "See its label" : "See the sample" }))),
    ...sides.map(([title, places, values, errors, counts]) =>
      movers(
        title,
        Array.from(places, (place, n) => ({ place, value: values[n], error: errors?.[n] })).filter(({ value }) => counts(value)),
        ({ place, value, error }) => testCard(place, value, error, largest),
        "None of the explained test samples.",
      ),
    ),
  );
}

/** Bring an element into sight where the page is one narrow column. */
function inSight(target) {
  if (target.getBoundingClientRect().top > window.innerHeight * 0.7) target.scrollIntoView({ block: "start" });
}

/** #explain/test/42 or #explain/train/17. */
function routeExplain([side, text]) {
  if (!EXPLAIN || !text) return;
  const id = Number(text);
  if (side === "train") {
    explainTraining(id);
    inSight(byId("explained"));
    return;
  }
  const place = EXPLAIN.placeOf.get(id);
  if (place === undefined) return;
  if (!testsList.items.includes(place)) {
    if (byId("wrong-only")) byId("wrong-only").checked = false;
    if (byId("test-label")) byId("test-label").value = "";
    filterTests();
  }
  testsList.go(testsList.items.indexOf(place), { focus: false });
  inSight(byId("explained"));
}
