/* The overview's charts. */

function showOverview() {
  const accuracies = byId("accuracies");
  if (accuracies) shareBars(accuracies, DATA.accuracies, "Test accuracy by the labels trained on");
  DATA.curves.forEach(showCurves);
  if (DATA.detection) showDetection(byId("detection"));
  DATA.checks.forEach((check, n) => showCheck(byId(`check-${n}`), check));
  const ways = [
    ["#suspects", TABLE.suggested || TABLE.flipped || TARGETS ? "See the suspects" : "See every sample"],
    ...(GROUPS ? [["#groups", "Judge groups of suspects"]] : []),
    ...(Object.keys(PAIRS).length ? [["#duplicates", "See near duplicates"]] : []),
    ...(DATA.explain.tests ? [["#explain", "Explain a prediction"]] : []),
    ["#contributions", "See all contributions"],
  ];
  byId("ways").append(...ways.map(([href, text]) => element("a", { href, class: "button", text })));
}

function showCurves({ what, x, lines }) {
  const last = lines.map((line) => `${line.name} ${what === "accuracy" ? percent(line.y.at(-1) ?? NaN) : tick(line.y.at(-1) ?? NaN)}`);
  lineChart(byId("training"), {
    x,
    lines,
    xName: "epoch",
    yName: what,
    yTick: what === "accuracy" ? (value) => percent(value, 1).replace(".0%", "%") : tick,
    alt: `${what} over ${counted(x.length, "epoch")}; at the end: ${last.join(", ")}.`,
  });
}

function showDetection(box) {
  const { inspected, found, wrong } = DATA.detection;
  const best = inspected.map((share) => Math.min(1, share / wrong));
  const at = (share) => percent(found[inspected.findIndex((value) => value >= share - 1e-9)]);
  lineChart(box, {
    x: inspected.map((share) => 100 * share),
    lines: [
      { name: "in this order", y: found },
      { name: "at random", y: inspected },
      { name: "at best", y: best },
    ],
    xName: "samples inspected, %",
    yName: LABELLED ? "wrong labels found" : "wrong samples found",
    yTick: (value) => percent(value, 0),
    from: 0,
    to: 1,
    alt: `Share of the wrong ${LABELLED ? "labels" : "samples"} found against share of samples inspected: ${at(0.1)} after a tenth, ${at(0.2)} after a fifth, ${at(0.5)} after half.`,
  });
}

function showCheck(box, { name, unit, predicted, actual, group_names: groups }) {
  const points = predicted.map((x, n) => ({ x, y: actual[n], name: `${groups ? `${groups[n]}: ` : ""}predicted ${signed(x)}, actual ${signed(actual[n])}` }));
  const table = {
    head: [groups ? "left out" : "group", "predicted", "actual"],
    rows: predicted.map((x, n) => [groups ? groups[n] : String(n + 1), signed(x), signed(actual[n])]),
  };
  if (points.length < 3) box.append(folded(table));
  else scatterChart(box, { points, table, xName: `predicted change (${unit})`, yName: "actual change", alt: `Scatter of ${points.length} actual against predicted changes: ${name}. On the dashed line they are equal.` });
}
