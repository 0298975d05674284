// Controls without names, tables without captions or scopes, pictures without words, ids used twice.
const faults = [];
const expect = (selector, said, holds) => {
  for (const each of document.querySelectorAll(selector)) if (!holds(each)) faults.push(`${said}: ${each.outerHTML.slice(0, 90)}`);
};
const named = (each) => each.getAttribute("aria-label") || document.getElementById(each.getAttribute("aria-labelledby"));
expect("select, input", "no label", (each) => each.labels.length);
expect("a, button", "no name", (each) => each.textContent.trim() || named(each));
expect("table", "no caption", (each) => each.caption);
expect("th", "no scope", (each) => ["col", "row", "rowgroup"].includes(each.scope));
expect("img", "no alternative text", (each) => each.hasAttribute("alt"));
expect("svg[role=img]", "no title or description", (each) => each.querySelector("title")?.textContent && each.querySelector("desc")?.textContent);
expect(".scroll", "cannot be scrolled by keyboard", (each) => each.tabIndex === 0 && named(each));
const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
for (const id of new Set(ids.filter((id, place) => ids.indexOf(id) !== place))) faults.push(`an id twice: ${id}`);
if (document.querySelectorAll("h1").length !== 1) faults.push("not one main heading");
if (!document.documentElement.lang) faults.push("no language");
return faults;
