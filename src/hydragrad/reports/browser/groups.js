/* Groups of suspects that agree with one another: a person judges a group by a few of its samples, and marks all of them. */

const GROUPS = DATA.groups?.map(({ samples, ...group }, place) => ({ ...group, place, ids: Array.from(unpacked(samples)) }));
const GROUPS_AT_ONCE = 20;
const REPRESENTATIVES = 5;

const SIZES_OF_GROUPS = [
  ["1", "any size"],
  ["2", "two samples or more"],
  ["5", "five samples or more"],
];

let groupsShown = [];
const wholeGroups = new Set(); // places of those whose samples are all shown

function showGroups() {
  if (!GROUPS) return;
  const all = GROUPS.reduce((sum, { ids }) => sum + ids.length, 0);
  byId("groups-lead").textContent =
    `${counted(all, "suspect")} in ${counted(GROUPS.length, "group")}. Samples of a group ${TARGETS?.kind === "values" ? "depart the same way" : "have the same given and suggested answer"}, and pull the model the same way. ` +
    `Look at a few, and mark all at once; single ones can be marked otherwise afterwards. The groups that together harm “${DATA.query}” most come first. A large one may be right, of a kind that the model has not learned.`;
  choices(byId("group-size"), SIZES_OF_GROUPS);
  choices(byId("group-marks"), [["", "all"], ["open", "not marked yet"]]);
  for (const id of ["group-size", "group-marks"]) byId(id).addEventListener("change", filterGroups);
  byId("more-groups").addEventListener("click", () => moreGroups(true));
  byId("group-list").addEventListener("keydown", groupKey);
  markListeners.push(refreshGroups);
  filterGroups();
}

function filterGroups() {
  const least = Number(byId("group-size").value);
  const open = byId("group-marks").value === "open";
  groupsShown = GROUPS.filter(({ ids }) => ids.length >= least && (!open || ids.some((id) => !marks.has(id))));
  byId("group-count").textContent = groupsShown.length === GROUPS.length ? counted(GROUPS.length, "group") : `${count(groupsShown.length)} of ${counted(GROUPS.length, "group")}`;
  byId("group-list").replaceChildren();
  moreGroups(false);
}

function moreGroups(focus) {
  const list = byId("group-list");
  const from = list.children.length;
  const more = groupsShown.slice(from, from + GROUPS_AT_ONCE);
  list.append(...more.map((group) => element("li", {}, groupBox(group))));
  const left = groupsShown.length - list.children.length;
  byId("more-groups").hidden = left <= 0;
  byId("more-groups").textContent = `Show ${Math.min(left, GROUPS_AT_ONCE)} more of ${count(left)}`;
  if (focus && more.length) list.children[from].firstChild.focus();
}

function groupBox(group) {
  const box = element("section", { class: "group", tabindex: 0 });
  box.dataset.place = group.place;
  fillGroup(box, group);
  return box;
}

function fillGroup(box, group) {
  const { ids, place } = group;
  const whole = wholeGroups.has(place) || ids.length <= REPRESENTATIVES;
  const state = groupState(ids);
  box.setAttribute("aria-label", `Group ${place + 1}: ${group.pair.join(", suggested ")}; ${groupFacts(group).join("; ")}${state ? `; ${state}` : ""}`);
  const [given, suggested] = group.pair;
  box.replaceChildren(
    element(
      "div",
      { class: "group-head" },
      element("h2", { class: "labels" }, element("span", { class: "given", text: given }), suggested === undefined ? null : element("span", { class: "quiet", text: " → " }), suggested === undefined ? null : element("span", { class: "suggested", text: suggested })),
      element("p", { class: "quiet", text: groupFacts(group).join(" · ") }),
    ),
    element("ul", { class: HAS_TEXTS ? "members worded" : "members" }, ...(whole ? ids : ids.slice(0, REPRESENTATIVES)).map((id) => element("li", {}, member(id)))),
    groupButtons(group, whole),
    element("p", { class: "mark", text: state ?? "" }),
  );
}

function groupFacts({ ids, agreement, contribution, flipped, place }) {
  return [
    `group ${place + 1}`,
    counted(ids.length, "sample"),
    agreement === null ? null : `agreement ${agreement.toFixed(2)}`,
    `together ${amount(contribution)}`,
    flipped === undefined ? null : `truly wrong: ${percent(flipped, 0)}`,
  ].filter(Boolean);
}

function groupState(ids) {
  const kinds = ids.map((id) => marks.get(id)?.mark);
  const [fixed, fine] = ["fixed", "fine"].map((kind) => kinds.filter((mark) => mark === kind).length);
  if (!fixed && !fine) return null;
  return [fixed ? `✎ ${count(fixed)} fixed` : null, fine ? `✓ ${count(fine)} fine` : null, `of ${count(ids.length)}`].filter(Boolean).join(", ").replace(/, of /, " of ");
}

function member(id) {
  const sign = { fixed: "✎ ", fine: "✓ " }[marks.get(id)?.mark] ?? "";
  const link = element("a", { href: `#suspects/${id}`, class: "end-card", "aria-label": suspectName(ROW_OF.get(id)) });
  const own = TARGETS && TARGETS.kind !== "multi-label" ? targetPair(ROW_OF.get(id)) : null; // what differs inside a group
  link.append(spotted(id) ?? tokensView(id) ?? sampleView("train", id, `Sample ${id}`) ?? "", own ?? "", element("span", { class: "quiet", text: `${sign}${id}` }));
  return link;
}

function groupButtons(group, whole) {
  const { ids, place, pair } = group;
  const all = ids.length === 1 ? "it" : `all ${count(ids.length)}`;
  const answer = TARGETS?.kind === "values" ? "the predicted value" : pair[1];
  return element(
    "div",
    { class: "decide", role: "group", "aria-label": "Mark this group" },
    pair[1] !== undefined || TARGETS?.kind === "values" ? element("button", { type: "button", text: `Fix ${all} → ${answer}`, onclick: () => markGroup(group, "fixed") }) : null,
    element("button", { type: "button", text: ids.length === 1 ? "It is fine" : `All ${count(ids.length)} are fine`, onclick: () => markGroup(group, "fine") }),
    element("button", { type: "button", class: "plain", text: "Unmark", onclick: () => markGroup(group, null) }),
    ids.length > REPRESENTATIVES
      ? element("button", { type: "button", class: "plain", "aria-expanded": String(whole), text: whole ? "Show fewer" : `Show all ${count(ids.length)}`, onclick: () => unfold(place) })
      : null,
  );
}

function unfold(place) {
  if (!wholeGroups.delete(place)) wholeGroups.add(place);
  refreshGroup(place);
}

/** Mark every sample of a group: as fixed with what is suggested for it, as fine, or not at all. */
function markGroup({ ids }, mark) {
  markAll(ids, mark);
}

/** Draw the groups anew that are in the page; the focus stays where it was. */
function refreshGroups(id) {
  for (const box of byId("group-list").querySelectorAll(".group")) {
    const { ids, place } = GROUPS[Number(box.dataset.place)];
    if (id === null || ids.includes(id)) refreshGroup(place);
  }
}

function refreshGroup(place) {
  const box = byId("group-list").querySelector(`[data-place="${place}"]`);
  const buttons = () => Array.from(box.querySelectorAll("button"));
  const at = buttons().indexOf(document.activeElement);
  fillGroup(box, GROUPS[place]);
  if (at >= 0) buttons()[at]?.focus({ preventScroll: true });
}

function groupKey(event) {
  const box = event.target.closest(".group");
  if (!box || event.target !== box || event.ctrlKey || event.metaKey || event.altKey) return;
  const group = GROUPS[Number(box.dataset.place)];
  const next = box.parentElement.nextElementSibling?.firstChild;
  const kinds = { f: "fixed", o: "fine", u: null };
  if (event.key in kinds) {
    markGroup(group, kinds[event.key]);
    if (event.key !== "u") goToGroup(next);
  } else if (event.key === "ArrowDown") goToGroup(next);
  else if (event.key === "ArrowUp") goToGroup(box.parentElement.previousElementSibling?.firstChild);
  else if (event.key === "Enter") unfold(group.place);
  else return;
  event.preventDefault();
}

function goToGroup(box) {
  if (!box) return;
  box.focus({ preventScroll: true });
  box.scrollIntoView({ block: "nearest" });
}
