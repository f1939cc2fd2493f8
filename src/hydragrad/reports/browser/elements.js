/* Elements made from plain values. Text from the data goes in as text only. */

const byId = (id) => document.getElementById(id);

/** element("p", {class: "quiet", text: "…", onclick: f}, child, …); children that are null are left out. */
function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const unseen = (text) => element("span", { class: "unseen", text });

/** Fill a select with [value, text] pairs. */
function choices(select, pairs) {
  select.replaceChildren(...pairs.map(([value, text]) => element("option", { value, text })));
}

/** Hand a file to the user. */
function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = element("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
