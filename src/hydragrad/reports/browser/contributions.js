/* All contributions: how they are distributed, class by class with the extremes marked, and over training time. */

const BINS = 60;

function showContributions() {
  const values = TABLE.contribution;
  const finite = values.filter(Number.isFinite);
  const negative = finite.filter((value) => value < 0).length;
  const lost = values.length - finite.length;
  byId("contributions-lead").textContent =
    `Contributions of ${counted(finite.length, "training sample")} to “${DATA.query}”: ${count(negative)} harm, ${count(finite.length - negative)} help or do nothing. The numbers are a ${DATA.column}.` +
    (lost ? ` ${count(lost)} contributions are NaN or infinite and are left out.` : "");
  const body = byId("contributions-body");
  if (!finite.length) return;
  const extent = spread(finite);
  const scaleFor = (wanted) => heavy(extent, wanted);
  showAll(body, finite, extent, scaleFor);
  if (TABLE.given) showClasses(body, scaleFor);
  showTime(body);
}

function showAll(body, finite, { low, high }, scaleFor) {
  const groups = TABLE.flipped
    ? [[LABELLED ? "right labels" : "right", "s0", 0], [LABELLED ? "wrong labels" : "wrong", "s1", 1]].map(([name, kind, flag]) => ({ name, kind, values: TABLE.contribution.filter((_, row) => TABLE.flipped[row] === flag) }))
    : [{ name: "all samples", kind: "s0", values: finite }];
  const section = element("section", { "aria-labelledby": "all-title" }, element("h2", { id: "all-title", text: "All samples" }));
  body.append(section);
  const figure = chart(section, {
    height: 240,
    alt: `Histogram of contributions from ${amount(low)} to ${amount(high)}.`,
    draw(plot) {
      const x = scaleFor(plot.width / 70);
      const counts = groups.map(({ values }) => binned(values, x, BINS));
      const tallest = Math.max(...counts.flatMap((group) => Array.from(group)));
      axes(plot, x, linear(0, tallest, { wanted: 4 }), { xName: `contribution${DATA.suffix && ", %"}`, yName: "samples" });
      counts.forEach((group, n) => plot.picture.append(steppedArea(plot, group, tallest, groups[n].kind)));
      zeroLine(plot, x);
    },
  });
  if (groups.length > 1) figure.prepend(legend(groups.map(({ name }) => name)));
  if (scaleFor(5).log) figure.append(element("figcaption", { class: "quiet", text: "The horizontal axis is logarithmic away from zero." }));
}

function zeroLine({ picture, left, top, width, height }, x) {
  const at = x.at(0);
  if (at > 0 && at < 1) picture.append(svg("line", { class: "zero", x1: left + at * width, x2: left + at * width, y1: top, y2: top + height }));
}

/** A row a class: its histogram, and its most harmful and most helpful samples. */
function showClasses(body, scaleFor) {
  const rows = DATA.labels.names.map(() => []);
  TABLE.given.forEach((code, row) => code !== NO_LABEL && Number.isFinite(TABLE.contribution[row]) && rows[code].push(row));
  const shown = rows.map((members, code) => ({ code, members })).filter(({ members }) => members.length);
  shown.forEach(({ members }) => members.sort((a, b) => TABLE.contribution[a] - TABLE.contribution[b]));
  const section = element("section", { "aria-labelledby": "classes-title" }, element("h2", { id: "classes-title", text: "By given label" }), element("p", { class: "quiet", text: "Each with its most harmful and most helpful samples; triangles under a curve mark where they lie." }));
  const list = element("ul", { class: "classes" });
  section.append(list);
  body.append(section);
  for (const { code, members } of shown) list.append(classRow(code, members, scaleFor));
}

const ENDS = 3;

function classRow(code, members, scaleFor) {
  const values = members.map((row) => TABLE.contribution[row]);
  const harm = members.slice(0, ENDS).filter((row) => TABLE.contribution[row] < 0);
  const help = members.slice(-ENDS).reverse().filter((row) => TABLE.contribution[row] > 0);
  const name = labelName(code);
  const negative = values.filter((value) => value < 0).length;
  const middle = element("div", { class: "middle" });
  chart(middle, {
    height: 92,
    left: 6,
    right: 6,
    bottom: 26,
    alt: `Contributions of ${counted(values.length, "sample")} labelled ${name}: lowest ${amount(values[0])}, median ${amount(values[values.length >> 1])}, highest ${amount(values[values.length - 1])}.`,
    draw(plot) {
      const x = scaleFor(plot.width / 60);
      const counts = binned(values, x, BINS);
      axes(plot, x, { ticks: [], at: () => 0 }, { xName: "" });
      plot.picture.append(steppedArea(plot, counts, Math.max(...counts), "s0"));
      zeroLine(plot, x);
      const base = plot.top + plot.height;
      for (const row of [...harm, ...help]) {
        const at = plot.left + x.at(TABLE.contribution[row]) * plot.width;
        plot.picture.append(svg("path", { class: TABLE.contribution[row] < 0 ? "end harms" : "end helps", d: `M${at} ${base}l-4 8h8z` }));
      }
    },
  });
  return element(
    "li",
    { class: "class" },
    element("h3", {}, name, element("span", { class: "quiet", text: ` ${counted(values.length, "sample")}, ${percent(negative / values.length, 0)} harm` })),
    ends("most harmful", "none harmful", harm),
    middle,
    ends("most helpful", "none helpful", help),
  );
}

function ends(title, none, rows) {
  const links = rows.map((row) => {
    const id = TABLE.id[row];
    const link = element("a", { href: `#suspects/${id}`, class: "end-card", "aria-label": suspectName(row) });
    link.append(sampleView("train", id, `Sample ${id}`) ?? element("span", { class: "quiet", text: `sample ${id}` }), contributionLine(TABLE.contribution[row], TABLE.error?.[row]));
    return link;
  });
  return element("div", { class: "ends" }, element("p", { class: "quiet", text: rows.length ? title : none }), ...links);
}

/* Contributions over training time. */

const TIME = DATA.time ? { ...DATA.time, rowOf: new Map(Array.from(unpacked(DATA.time.ids), (id, row) => [id, row])), values: unpacked(DATA.time.values) } : null;

function showTime(body) {
  const section = element("section", { "aria-labelledby": "time-title" }, element("h2", { id: "time-title", text: "Over training time" }));
  body.append(section);
  if (!TIME) {
    section.append(element("p", { class: "verdict", text: DATA.how_over_time }));
    return;
  }
  section.append(element("p", { text: `What ${TIME.unit === "epoch" ? "every epoch" : "every stretch of the training"} added to a contribution, on average over the samples of a group; the stretches add up to the whole.` }));
  lineChart(section, {
    x: TIME.ends,
    lines: TIME.groups.map(({ name, mean }) => ({ name, y: mean })),
    xName: TIME.unit,
    yName: `mean contribution${DATA.suffix && ", %"}`,
    alt: `Mean contribution by ${TIME.unit} of ${TIME.groups.map(({ name }) => name).join(", ")}.`,
  });
}

/** One sample's contribution over training time, as small bars; null where it is not in this file. */
function timeOf(id) {
  const row = TIME?.rowOf.get(id);
  if (row === undefined) return null;
  const stretches = TIME.ends.length;
  const values = TIME.values.slice(row * stretches, (row + 1) * stretches);
  const box = element("div", { class: "over-time" }, element("h3", { text: `Contribution by ${TIME.unit}` }));
  const table = { head: [TIME.unit, "contribution"], rows: Array.from(values, (value, n) => [tick(TIME.ends[n]), amount(value)]) };
  const y = linear(Math.min(0, ...values), Math.max(0, ...values), { wanted: 3 });
  chart(box, {
    height: 110,
    left: roomFor(y) - 18,
    bottom: 24,
    alt: `Contribution of sample ${id} by ${TIME.unit}: ${Array.from(values, (value) => amount(value)).join(", ")}.`,
    table,
    draw(plot) {
      const x = linear(0, stretches, { wanted: 4 });
      const { px, py } = axes(plot, { ...x, ticks: [] }, y, { xName: "" });
      values.forEach((value, n) => {
        const [from, to] = [py(Math.max(0, value)), py(Math.min(0, value))];
        plot.picture.append(svg("rect", { class: value < 0 ? "column harms" : "column helps", x: px(n) + 1, width: Math.max(1, px(n + 1) - px(n) - 2), y: from, height: Math.max(0.5, to - from) }));
      });
      plot.picture.append(words(plot.left, plot.top + plot.height + 16, tick(TIME.ends[0]), "start"), words(plot.left + plot.width, plot.top + plot.height + 16, `${TIME.unit} ${tick(TIME.ends[stretches - 1])}`, "end"));
    },
  });
  return box;
}
