/* Near duplicates: pairs inside the training set, and training samples that held-out data hold again. */

const PAIRS_AT_ONCE = 20;
const PAIRS = Object.fromEntries(["duplicates", "leaks"].filter((name) => DATA[name]).map((name) => [name, unpackedAll(DATA[name])]));

function showDuplicates() {
  const body = byId("duplicates-body");
  if (!body) return;
  if (PAIRS.leaks) body.append(pairsSection("leaks", "Training samples in the test set", "A model that saw a test sample in training is not tested by it.", "No training sample comes near a test sample."));
  if (PAIRS.duplicates) body.append(pairsSection("duplicates", "Twice in the training set", "A sample that stands there twice counts twice; under two labels, one of them is wrong.", "No two training samples come near each other."));
}

function pairsSection(name, title, meaning, none) {
  const { sample, same } = PAIRS[name];
  const section = element("section", { "aria-label": title }, element("h2", { text: title }));
  if (!sample.length) {
    section.append(element("p", { text: none }));
    return section;
  }
  const equal = same.filter(Boolean).length;
  const rest = sample.length - equal;
  const places = Array.from(sample, (_, place) => place);
  const differ = places.filter((place) => labelsDiffer(name, place));
  const found = [equal ? `${counted(equal, "pair")} of equal inputs` : "No equal inputs", rest ? `; then ${count(rest)} that are near, the nearest first: whether they are copies is for you to see` : ""].join("");
  section.append(element("p", { text: `${meaning} ${found}. ${differ.length ? `In ${counted(differ.length, "pair")} the labels differ.` : ""}` }));
  const list = element("ol", { class: "pairs" });
  const more = element("button", { type: "button" });
  let wanted = places;
  const show = (fresh) => {
    if (fresh) list.replaceChildren();
    const next = wanted.slice(list.children.length, list.children.length + PAIRS_AT_ONCE);
    list.append(...next.map((place) => element("li", {}, pairBox(name, place))));
    const left = wanted.length - list.children.length;
    more.hidden = left <= 0;
    more.textContent = `Show ${Math.min(left, PAIRS_AT_ONCE)} more of ${count(left)}`;
  };
  more.addEventListener("click", () => show(false));
  if (differ.length && differ.length < places.length) {
    const only = element("input", { type: "checkbox" });
    only.addEventListener("change", () => {
      wanted = only.checked ? differ : places;
      show(true);
    });
    section.append(element("div", { class: "tools" }, element("label", { class: "check" }, only, " only where the labels differ")));
  }
  section.append(list, more);
  show(true);
  return section;
}

/** Label of a pair's other sample, by name; null where it is not known. */
function otherLabel(name, place) {
  const { other, other_label: label } = PAIRS[name];
  if (name === "leaks") return label ? labelName(label[place]) : null;
  return labelOf("given", ROW_OF.get(other[place]));
}

function labelsDiffer(name, place) {
  const [one, two] = [labelOf("given", ROW_OF.get(PAIRS[name].sample[place])), otherLabel(name, place)];
  return one !== null && two !== null && one !== two;
}

function pairBox(name, place) {
  const { sample, other, same, nearness, gradient_cosine: gradients, input_cosine: inputs } = PAIRS[name];
  const near = same[place] ? "= equal inputs" : `≈ nearness ${nearness[place].toFixed(3)}`;
  const cosines = [["gradients", gradients], ["inputs", inputs]].filter(([, all]) => Number.isFinite(all[place])).map(([what, all]) => `${what} ${all[place].toFixed(3)}`);
  return element(
    "div",
    { class: "pair" },
    pairSide("train", sample[place], `sample ${sample[place]}`, labelOf("given", ROW_OF.get(sample[place]))),
    pairSide(name === "leaks" ? "held_out" : "train", other[place], `${name === "leaks" ? "test " : "sample "}${other[place]}`, otherLabel(name, place)),
    element(
      "div",
      { class: "text" },
      element("span", { class: "labels", text: near }),
      labelsDiffer(name, place) ? element("span", { class: "mark", text: "✗ the labels differ" }) : null,
      cosines.length ? element("span", { class: "quiet", text: `cosine of ${cosines.join(", of ")}` }) : null,
    ),
  );
}

function pairSide(set, id, title, label) {
  const parts = [sampleView(set, id, title) ?? "", element("span", { class: "text" }, label === null ? null : element("span", { class: "labels", text: label }), element("span", { class: "quiet", text: title }))];
  const known = set === "train" && ROW_OF.has(id);
  return element(known ? "a" : "div", { class: HAS_TEXTS ? "card worded" : "card", href: known ? `#suspects/${id}` : null }, ...parts);
}
