/* Views, one at a time, named by the address: #overview, #suspects/17, #groups, #duplicates, #explain/test/42,
   #contributions. */

const VIEWS = ["overview", "suspects", ...(GROUPS ? ["groups"] : []), ...(Object.keys(PAIRS).length ? ["duplicates"] : []), "explain", "contributions"];
const WITH_MARKS = ["suspects", "groups"];

function route() {
  const [name, ...rest] = decodeURIComponent(location.hash.slice(1)).split("/");
  const view = VIEWS.includes(name) ? name : "overview";
  const before = document.querySelector("main > .view:not([hidden])")?.id;
  VIEWS.forEach((name) => (byId(name).hidden = name !== view));
  byId("views").querySelectorAll("a").forEach((link) => {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  });
  byId("export").hidden = !MARKABLE || !WITH_MARKS.includes(view);
  document.body.classList.remove("detail-open");
  if (before !== view) window.scrollTo(0, 0);
  if (view === "suspects") {
    suspectsList.arrange();
    if (rest[0]) goToSuspect(Number(rest[0]));
  }
  if (view === "explain") {
    testsList?.arrange();
    routeExplain(rest);
  }
}

/** Go to a sample, whatever is filtered. */
function goToSuspect(id) {
  const row = ROW_OF.get(id);
  if (row === undefined) return;
  if (!suspectsList.items.includes(row)) {
    for (const tool of ["given", "suggested", "marked", "number"]) byId(tool).value = "";
    filterSuspects();
  }
  suspectsList.go(suspectsList.items.indexOf(row), { opened: true });
}

/* Colours: as the system, or as set with the button. */

const THEMES = [["", "◐", "as the system"], ["light", "○", "light"], ["dark", "●", "dark"]];

function showTheme() {
  const button = byId("theme");
  let now = 0;
  const show = () => {
    const [theme, sign, text] = THEMES[now];
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    button.replaceChildren(element("span", { "aria-hidden": "true", text: `${sign} ` }), element("span", { class: "wide", text: `Colours: ${text}` }));
    button.setAttribute("aria-label", `Colours: ${text}`);
  };
  button.addEventListener("click", () => {
    now = (now + 1) % THEMES.length;
    show();
  });
  button.hidden = false;
  show();
}

/* On paper every view is printed, with the first cards of each list. */

const PRINTED = 48;

/** The first cards of a list, which also has their pictures decoded before anybody prints. */
function firstCards(list) {
  return list.items.slice(0, PRINTED).map((item) => {
    const card = element("div", { class: "card" });
    card.append(...list.card(item, card));
    return card;
  });
}

const lists = () => [suspectsList, testsList].filter(Boolean);

function printed() {
  VIEWS.forEach((name) => (byId(name).hidden = false));
  for (const list of lists()) list.box.after(element("div", { class: "on-paper" }, ...firstCards(list)));
}

function printedNoMore() {
  document.querySelectorAll(".on-paper").forEach((cards) => cards.remove());
  route();
}

recallMarks();
showTheme();
showOverview();
showSuspects();
showGroups();
showDuplicates();
showExplain();
showContributions();
lists().forEach(firstCards);
window.addEventListener("hashchange", route);
window.addEventListener("beforeprint", printed);
window.addEventListener("afterprint", printedNoMore);
document.addEventListener("keydown", (event) => event.key === "Escape" && document.body.classList.contains("detail-open") && closeDetail());
document.documentElement.classList.add("scripted");
route();
