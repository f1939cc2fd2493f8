/* Charts as SVG whose type stays readable at any width, in colours that follow the page; each has a table below it. */

/** Round steps over [low, high], at most about `wanted` of them. */
function roundSteps(low, high, wanted) {
  const rough = (high - low) / (Math.max(2, wanted) + 0.5);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].find((factor) => factor * size >= rough * 0.999) * size;
  const ticks = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1) ticks.push(n * step);
  return ticks;
}

/** A linear scale: at(value) lies between 0 and 1. */
function linear(low, high, { wanted = 5, whole = false } = {}) {
  if (!(high > low)) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  let ticks = roundSteps(low, high, wanted);
  if (whole) ticks = ticks.filter(Number.isInteger);
  return { low, high, ticks, at: (value) => (value - low) / (high - low), back: (share) => low + share * (high - low) };
}

/** Lowest and highest of some values, and the median size of those that are not 0. */
function spread(values) {
  const sizes = Float64Array.from(values, Math.abs).filter((size) => size > 0).sort();
  const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
  return { low, high, median: sizes.length ? sizes[sizes.length >> 1] : 0 };
}

/** A scale that is logarithmic away from 0, for values of very different size; linear where they are not. */
function heavy({ low, high, median: width }, wanted = 5) {
  if (!width || Math.max(-low, high) <= 12 * width || !(high > low)) return { ...linear(low, high, { wanted }), log: false };
  const [from, to] = [Math.asinh(low / width), Math.asinh(high / width)];
  const at = (value) => (Math.asinh(value / width) - from) / (to - from);
  const back = (share) => width * Math.sinh(from + share * (to - from));
  const powers = [];
  for (let k = Math.floor(Math.log10(Math.max(-low, high))); 10 ** k > width; k -= 1) powers.push(10 ** k);
  const every = Math.max(1, Math.ceil((2 * powers.length + 1) / Math.max(3, wanted)));
  const labelled = powers.filter((_, n) => n % every === 0);
  const ticks = [...labelled.map((value) => -value), 0, ...labelled].filter((value) => value >= low && value <= high);
  return { low, high, ticks, at, back, log: true };
}

/**
 * A figure in `box`. draw(plot) fills it, again after every change of width. alt: what a screen reader says of it.
 * table: {head, rows} of plain texts, folded away beneath it.
 */
function chart(box, { height, alt, draw, table, left = 56, bottom = 40, top = 8, right = 12 }) {
  const picture = svg("svg", { role: "img", "aria-label": alt, height });
  const figure = element("figure", { class: "chart" }, picture);
  if (table) figure.append(folded(table));
  box.append(figure);
  let drawn = 0;
  new ResizeObserver(() => {
    const width = figure.clientWidth;
    if (!width || width === drawn) return;
    drawn = width;
    picture.replaceChildren();
    picture.setAttribute("width", width);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    draw({ picture, left, top, width: Math.max(20, width - left - right), height: height - top - bottom });
  }).observe(figure);
  return figure;
}

function folded({ head, rows }) {
  const cells = (tag, row) => row.map((text, n) => element(tag, { text, scope: tag === "th" ? "col" : null, class: n ? "number" : null }));
  const body = rows.map((row) => element("tr", {}, ...cells("td", row)));
  const made = element("table", {}, element("thead", {}, element("tr", {}, ...cells("th", head))), element("tbody", {}, ...body));
  return element("details", { class: "numbers" }, element("summary", { text: "As a table" }), element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table" }, made));
}

/** Grid, ticks and names of both axes; returns where values lie. */
function axes({ picture, left, top, width, height }, x, y, { xName, yName, xTick = tick, yTick = tick }) {
  const px = (value) => left + x.at(value) * width;
  const py = (value) => top + (1 - y.at(value)) * height;
  for (const value of y.ticks) {
    picture.append(svg("line", { class: "grid", x1: left, x2: left + width, y1: py(value), y2: py(value) }));
    picture.append(words(left - 6, py(value) + 4, yTick(value), "end"));
  }
  let free = -Infinity;
  for (const value of x.ticks) {
    const text = xTick(value);
    picture.append(svg("line", { class: "grid", x1: px(value), x2: px(value), y1: top, y2: top + height }));
    if (px(value) - 3.4 * text.length < free) continue; // would touch the one before
    free = px(value) + 3.4 * text.length + 4;
    picture.append(words(px(value), top + height + 17, text, "middle"));
  }
  picture.append(words(left + width / 2, top + height + 35, xName, "middle", "axis"));
  if (yName) picture.append(svg("text", { class: "axis", x: 0, y: 0, "text-anchor": "middle", transform: `translate(12 ${top + height / 2}) rotate(-90)` }, yName));
  return { px, py };
}

const words = (x, y, text, anchor, kind = "tick") => svg("text", { class: kind, x, y, "text-anchor": anchor }, text);

/** Points [x, y] as a path that breaks where y is null. */
function path(points) {
  let pen = "M";
  return points
    .map(([x, y]) => {
      if (y === null) {
        pen = "M";
        return "";
      }
      const piece = `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
      return piece;
    })
    .join("");
}

/** Room to the left of an axis for its ticks and its name. */
function roomFor(scale, format = tick) {
  return 28 + 6.6 * Math.max(...scale.ticks.map((value) => format(value).length));
}

/** Lines distinguished by colour, dashes and their names in a legend. lines: [{name, y: [number or null]}]. */
function lineChart(box, { x, lines, xName, yName, yTick, alt, height = 230, from, to, whole = true }) {
  const values = lines.flatMap((line) => line.y.filter((value) => value !== null));
  const low = from ?? Math.min(...values);
  const high = to ?? Math.max(...values);
  const table = { head: [xName, ...lines.map((line) => line.name)], rows: x.map((value, n) => [tick(value), ...lines.map((line) => (line.y[n] === null ? "–" : (yTick ?? tick)(line.y[n])))]) };
  const pad = (high - low) * 0.05;
  const y = linear(from ?? low - pad, to ?? high + pad, { wanted: 4 });
  const figure = chart(box, {
    height,
    alt,
    table,
    left: roomFor(y, yTick),
    draw(plot) {
      const along = x.length === 1 ? linear(x[0] - 0.5, x[0] + 0.5, { whole }) : linear(x[0], x[x.length - 1], { wanted: Math.max(2, plot.width / 70), whole });
      const { px, py } = axes(plot, along, y, { xName, yName, yTick });
      lines.forEach((line, n) => {
        const points = line.y.map((value, k) => [px(x[k]), value === null ? null : py(value)]);
        plot.picture.append(svg("path", { class: `line s${n % 6}`, d: path(points) }));
        if (x.length <= 30) points.forEach(([cx, cy]) => cy !== null && plot.picture.append(svg("circle", { class: `dot s${n % 6}`, cx, cy, r: 2.6 })));
      });
    },
  });
  if (lines.length > 1) figure.prepend(legend(lines.map((line) => line.name)));
  return figure;
}

function legend(names) {
  const keys = names.map((name, n) => {
    const mark = svg("svg", { width: 28, height: 10, "aria-hidden": "true" }, svg("line", { class: `line s${n % 6}`, x1: 1, x2: 27, y1: 5, y2: 5 }));
    return element("li", {}, mark, element("span", { text: name }));
  });
  return element("ul", { class: "legend" }, ...keys);
}

/** Dots over a line on which both are equal. points: [{x, y, name}]. */
function scatterChart(box, { points, xName, yName, alt, table }) {
  const all = points.flatMap(({ x, y }) => [x, y, 0]);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const pad = (high - low || 1) * 0.06;
  return chart(box, {
    height: 300,
    alt,
    table,
    left: roomFor(linear(low - pad, high + pad)),
    draw(plot) {
      const side = linear(low - pad, high + pad, { wanted: Math.max(2, Math.min(5, plot.width / 80)) });
      const { px, py } = axes(plot, side, side, { xName, yName });
      plot.picture.append(svg("line", { class: "equal", x1: px(side.low), y1: py(side.low), x2: px(side.high), y2: py(side.high) }));
      for (const { x, y, name } of points) plot.picture.append(svg("circle", { class: "dot s0 open", cx: px(x), cy: py(y), r: 4.5 }, svg("title", {}, name)));
    },
  });
}

/** Horizontal bars of shares. bars: [{name, value}]. */
function shareBars(box, bars, alt) {
  const rows = bars.map(({ name, value }) => {
    const bar = element("span", { class: "bar-of", "aria-hidden": "true" });
    bar.style.setProperty("--share", value);
    return element("li", {}, element("span", { class: "bar-name", text: name }), bar, element("span", { class: "bar-value", text: percent(value) }));
  });
  box.append(element("ul", { class: "bars", "aria-label": alt }, ...rows));
}

/** How many values lie in each of `bins` equally wide parts of a scale. */
function binned(values, scale, bins) {
  const counts = new Uint32Array(bins);
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    counts[Math.max(0, Math.min(bins - 1, Math.floor(scale.at(value) * bins)))] += 1;
  }
  return counts;
}

/** Counts as one stepped area over the plot; `tallest` fills its height. */
function steppedArea({ left, top, width, height }, counts, tallest, kind) {
  const step = width / counts.length;
  let d = `M${left} ${top + height}`;
  counts.forEach((value, n) => {
    const y = top + height - (value / tallest) * height;
    d += `L${(left + n * step).toFixed(1)} ${y.toFixed(1)}L${(left + (n + 1) * step).toFixed(1)} ${y.toFixed(1)}`;
  });
  return svg("path", { class: `area ${kind}`, d: `${d}L${left + width} ${top + height}Z` });
}
