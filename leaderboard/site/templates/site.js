"use strict";
// Enhances tables that are complete without it. Text is only ever set as text.

const read = (element) => JSON.parse(element.textContent);

// ---- wide tables and figures: the edge behind which there is more is marked, where a scroll bar may not show

for (const region of document.querySelectorAll(".scroll")) {
  const mark = () => {
    region.classList.toggle("more-left", region.scrollLeft > 1);
    region.classList.toggle("more-right", region.scrollLeft + region.clientWidth < region.scrollWidth - 1);
  };
  region.addEventListener("scroll", mark, { passive: true });
  const sizes = new ResizeObserver(mark);
  for (const each of [region, ...region.children]) sizes.observe(each);
}

// ---- the address keeps what the reader chose, so that the page can be sent on as it is seen

const state = new URLSearchParams(location.search);
const nameOf = (table) => `sort-${[...document.querySelectorAll("table.sortable")].indexOf(table)}`;

function remember(name, value) {
  if (value) state.set(name, value);
  else state.delete(name);
  const query = state.toString();
  history.replaceState(null, "", location.pathname + (query ? "?" + query : "") + location.hash);
}

// ---- sorting: within each table body, empty cells last

function valueOf(row, index) {
  const cell = row.cells[index];
  const text = cell ? (cell.dataset.value ?? cell.textContent.trim()) : "";
  if (text === "") return null;
  const number = Number(text);
  return Number.isNaN(number) ? text : number;
}

function compareValues(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(header, direction) {
  const table = header.closest("table");
  for (const other of header.parentElement.cells) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.classList.contains("divider"));
    const keyed = rows.map((row, place) => [valueOf(row, header.cellIndex), place, row]);
    keyed.sort(([a, i], [b, j]) => (a === null ? (b === null ? i - j : 1) : b === null ? -1 : sign * compareValues(a, b) || i - j));
    body.append(...keyed.map((entry) => entry[2]));
  }
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest(".sort");
    if (!button) return;
    const header = button.closest("th");
    const now = header.getAttribute("aria-sort");
    // Scores are wanted largest first, names and ranks smallest first.
    const first = header.classList.contains("num") && !header.classList.contains("rank") ? "descending" : "ascending";
    sortBy(header, now === "none" ? first : now === "ascending" ? "descending" : "ascending");
    remember(nameOf(table), `${header.cellIndex}-${header.getAttribute("aria-sort")}`);
  });
}

// ---- significance against a reference that the reader picks

const marks = document.getElementById("marks") ? read(document.getElementById("marks")) : {};

function setMark(span, sign, words) {
  span.textContent = sign;
  span.title = words;
  span.classList.toggle("up", sign.startsWith("▲"));
  span.classList.toggle("down", sign.startsWith("▼"));
  if (words) {
    const spoken = document.createElement("span");
    spoken.className = "sr";
    spoken.textContent = " " + words;
    span.append(spoken);
  }
}

function measureOf(section) {
  return section.querySelector("select.measure")?.value ?? "score";
}

function updateMarks(section) {
  const data = read(section.querySelector("script.data"));
  const place = new Map(data.rows.map((row, index) => [row, index]));
  const chosen = section.querySelector("select.reference").value;
  for (const span of section.querySelectorAll(".mark")) {
    const codes = data.marks[measureOf(section)][span.dataset.column];
    const [sign, words] = marks[codes[place.get(span.dataset.row) * data.rows.length + place.get(chosen)]];
    setMark(span, sign, words);
  }
  for (const row of section.querySelectorAll("tr[data-row]")) row.classList.toggle("is-reference", row.dataset.row === chosen);
}

for (const select of document.querySelectorAll("select.reference")) {
  select.addEventListener("change", () => updateMarks(select.closest("section")));
}

// ---- ranking by another measure: what depends on it is there for each, one of them shown

function rankBy(section, measure) {
  for (const part of section.querySelectorAll("[data-by]")) part.hidden = part.dataset.by !== measure;
  for (const cell of section.querySelectorAll("td[data-score]")) cell.dataset.value = cell.dataset[measure];
  const table = section.querySelector("table.sortable");
  const [ranked, unranked] = table.tBodies;
  for (const row of table.querySelectorAll("tr[data-row]")) (row.cells[0].dataset.value ? ranked : unranked).append(row);
  unranked.hidden = !unranked.querySelector("tr[data-row]");
  sortBy(table.tHead.rows[0].cells[0], "ascending");
  updateMarks(section);
}

// The measure stands in the address, so that a page can be passed on as it is seen.
const wanted = new URLSearchParams(location.search).get("measure");
for (const select of document.querySelectorAll("select.measure")) {
  select.addEventListener("change", () => {
    const address = new URL(location.href);
    if (select.value === "score") address.searchParams.delete("measure");
    else address.searchParams.set("measure", select.value);
    history.replaceState(null, "", address);
    rankBy(select.closest("section"), select.value);
  });
  if (wanted && [...select.options].some((option) => option.value === wanted)) {
    select.value = wanted;
    rankBy(select.closest("section"), wanted);
  }
}

// ---- filters

const form = document.querySelector(".filters form");
if (form) {
  const status = document.querySelector(".filtered");
  const update = () => {
    const rows = [...document.querySelectorAll(".board-table tr[data-row]")];
    let shown = 0;
    for (const row of rows) {
      let keep = true;
      for (const field of form.elements) {
        if (!field.value) continue;
        if (field.dataset.filter) keep &&= row.dataset[field.dataset.filter] === field.value.slice(1);
        // What is not known of a row is not known to be little.
        const known = field.dataset.most && row.dataset[field.dataset.most];
        if (field.dataset.most) keep &&= known !== "" && Number(known) <= Number(field.value) * Number(field.dataset.unit);
      }
      row.hidden = !keep;
      shown += keep;
    }
    status.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows shown; ranks are those among all rows.`;
  };
  for (const event of ["input", "change"]) form.addEventListener(event, update);
  form.addEventListener("reset", () => setTimeout(update));
  form.addEventListener("submit", (event) => event.preventDefault());
}

// ---- what the reader chose, from the address

for (const field of document.querySelectorAll("select.measure, select.reference, .filters select, .filters input")) {
  const usual = field.value;
  if (state.has(field.id)) {
    field.value = state.get(field.id);
    if (field.selectedIndex === -1) field.value = usual;
    if (field.value !== usual) field.dispatchEvent(new Event("change", { bubbles: true }));
  }
  field.addEventListener("change", () => remember(field.id, field.value === usual ? "" : field.value));
}
form?.addEventListener("reset", () => setTimeout(() => { for (const field of form.elements) if (field.id) remember(field.id, ""); }));
for (const table of document.querySelectorAll("table.sortable")) {
  const [place, direction] = (state.get(nameOf(table)) ?? "").split("-");
  const header = table.tHead.rows[0].cells[Number(place)];
  if (direction && header?.hasAttribute("aria-sort")) sortBy(header, direction === "descending" ? direction : "ascending");
}

// ---- test sections

for (const viewer of document.querySelectorAll(".viewer")) {
  const data = read(viewer.querySelector("script.viewer-data"));
  const row = viewer.querySelector("#viewer-row");
  const slider = viewer.querySelector("#viewer-section");
  const where = viewer.querySelector(".where");
  const at = (path) => viewer.dataset.root + path;

  const layer = (panel, kind, path, words, size) => {
    let image = panel.querySelector(kind);
    if (!path) { if (image) image.hidden = true; return; }
    if (!image) {
      image = document.createElement("img");
      image.className = kind.slice(1);
      panel.querySelector(".stack").append(image);
    }
    image.hidden = false;
    image.alt = words;
    [image.width, image.height] = size;
    if (image.getAttribute("src") !== at(path)) image.src = at(path);
  };

  const show = () => {
    const section = data.sections[Number(slider.value)];
    const shown = section.predictions[row.value];
    for (const panel of viewer.querySelectorAll(".panel")) {
      const kind = panel.dataset.kind;
      layer(panel, ".base", section.image, kind === "image" ? "Raw image of the section" : "", section.size);
      if (kind === "truth") layer(panel, ".over", section.truth, "Truth of the section", section.size);
      if (kind === "prediction") layer(panel, ".over", shown?.prediction, "Prediction of " + row.value, section.size);
      if (kind === "error") layer(panel, ".over", shown?.error, "Error of " + row.value, section.size);
    }
    const score = shown && shown.iou !== null ? `, IoU ${shown.iou.toFixed(3)}` : "";
    where.textContent = `${section.item}, section ${section.index}: ` + (shown ? `${row.value}, seed ${shown.seed}${score}` : `${row.value} stored no prediction here`);
    slider.setAttribute("aria-valuetext", `${section.item}, section ${section.index}`);
  };
  const fetchAhead = (index) => {
    const next = data.sections[index];
    const shown = next?.predictions[row.value];
    for (const path of [next?.image, next?.truth, shown?.prediction, shown?.error]) if (path) new Image().src = at(path);
  };
  const go = (index) => {
    slider.value = index;
    show();
    fetchAhead(Number(slider.value) + 1);
  };
  row.addEventListener("change", show);
  slider.addEventListener("input", () => go(slider.value));
  const steps = { ArrowLeft: -1, ArrowUp: -1, PageUp: -5, ArrowRight: 1, ArrowDown: 1, PageDown: 5, Home: -Infinity, End: Infinity };
  viewer.querySelector(".panels").addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    go(Math.min(Number(slider.max), Math.max(0, Number(slider.value) + steps[event.key])));
  });
  for (const button of viewer.querySelectorAll("[data-step]")) {
    button.addEventListener("click", () => go(Number(slider.value) + Number(button.dataset.step)));
  }
  viewer.querySelector("#viewer-overlay").addEventListener("change", (event) => viewer.classList.toggle("plain", !event.target.checked));
  for (const button of viewer.querySelectorAll("[data-jump]")) {
    button.addEventListener("click", () => {
      const scored = data.sections.map((section, index) => [section.predictions[row.value]?.iou, index]).filter(([score]) => score !== undefined && score !== null);
      if (!scored.length) return;
      scored.sort(([a], [b]) => a - b);
      go(scored[Math.round(Number(button.dataset.jump) * (scored.length - 1))][1]);
    });
  }
}

// ---- two models compared: the first is this page, the second is in the address

const pairTable = document.getElementById("pair-table");
if (pairTable) {
  const data = read(document.querySelector("script.data"));
  const values = Uint8Array.from(atob(data.values), (letter) => letter.charCodeAt(0)).buffer;
  const types = { number: Float64Array, count: Uint32Array, flag: Uint8Array, text: Uint16Array };
  const count = values.byteLength / data.fields.reduce((sum, [, kind]) => sum + types[kind].BYTES_PER_ELEMENT, 0);
  const meant = {
    text: (value, field) => data.words[field][value],
    flag: (value) => value === 1,
    count: (value) => value,
    number: (value) => (Number.isNaN(value) ? null : value),
  };
  const tests = Array.from({ length: count }, () => ({}));
  let start = 0;
  for (const [field, kind] of data.fields) {
    const end = start + count * types[kind].BYTES_PER_ELEMENT;
    new types[kind](values.slice(start, end)).forEach((value, line) => { tests[line][field] = meant[kind](value, field); });
    start = end;
  }
  const first = document.getElementById("pair-first");
  const second = document.getElementById("pair-second");
  const against = [...second.options].map((option) => ({ slug: option.value, label: option.textContent, tests: tests.filter((test) => test.other === option.textContent) }));
  const own = first.value;
  const fixed = (value, digits = 3) => (value === null ? "–" : value.toFixed(digits));
  const probability = (value) => (value === null ? "–" : value >= 0.0001 ? value.toFixed(4) : value.toExponential(0));

  const cell = (tag, kind, text, value) => {
    const made = document.createElement(tag);
    made.className = kind;
    made.textContent = text;
    made.dataset.value = value ?? "";
    return made;
  };

  // The same sentence as the page's own of the first pair (pairs.py).
  const said = (other, compared) => {
    if (!compared.length) return `${data.row} and ${other} have no task in common under one fingerprint: their scores may not be compared.`;
    const different = compared.filter((test) => test.verdict === "different");
    const better = different.filter((test) => test.difference > 0).length;
    const worse = different.filter((test) => test.difference < 0).length;
    const small = compared.filter((test) => test.verdict === "n too small").length;
    const chances = [false, true].map((kind) => compared.find((test) => test.synthetic === kind)).filter(Boolean).map((test) =>
      fixed(test.improvement, 2)
      + (test.improvement_low === null ? "" : ` [${fixed(test.improvement_low, 2)}, ${fixed(test.improvement_high, 2)}]`)
      + ` on ${test.synthetic ? "synthetic" : "real"} data`);
    return `${data.row} is better than ${other} on ${better} of ${compared.length} task${compared.length !== 1 ? "s" : ""}, `
      + `worse on ${worse}, not distinguished on ${compared.length - better - worse - small}`
      + (small ? `, with too few seeds on ${small}` : "")
      + `. Probability of improvement: ${chances.join(", ")}.`;
  };

  const show = () => {
    const entry = against.find((each) => each.slug === second.value);
    document.getElementById("pair-region").hidden = !entry || !entry.tests.length;
    if (!entry) return;
    document.getElementById("pair").textContent = said(entry.label, entry.tests);
    pairTable.caption.textContent = `${data.row} (first) against ${entry.label} (second)`;
    const rows = entry.tests.map((test) => {
      const row = document.createElement("tr");
      const name = cell("th", "name", "", test.task);
      name.scope = "row";
      const link = document.createElement("a");
      link.href = `../task/${encodeURIComponent(test.page)}.html`;
      link.textContent = test.task;
      name.append(link);
      if (test.synthetic) {
        const badge = document.createElement("span");
        badge.className = "badge synthetic";
        badge.textContent = "synthetic";
        name.append(" ", badge);
      }
      const up = test.difference > 0;
      const way = test.verdict !== "different" ? test.verdict : up ? "▲ first better" : "▼ second better";
      const verdict = cell("td", "", "", way);
      verdict.append(cell("span", test.verdict !== "different" ? "mark" : up ? "mark up" : "mark down", way));
      const runs = (done, failed) => (failed ? `${done} of ${done + failed}` : String(done));
      const within = (low, high) => (low === null ? "" : `[${fixed(low)}, ${fixed(high)}]`);
      const seeds = test.seeds === null ? "–" : test.seeds === Infinity ? "more than 1,000" : String(test.seeds);
      row.append(
        name,
        verdict,
        cell("td", "num", `${runs(test.n, test.failed)}, ${runs(test.m, test.other_failed)}`, test.n + test.m),
        cell("td", "num", `${fixed(test.mean)}, ${fixed(test.other_mean)}`, test.mean),
        cell("td", "num", `${fixed(test.difference)} ${within(test.low, test.high)}`.trim(), test.difference),
        cell("td", "num", probability(test.p), test.p),
        cell("td", "num", probability(test.p_holm), test.p_holm),
        cell("td", "num", test.better === null ? "–" : `${fixed(test.better, 2)}, ${fixed(test.same, 2)}, ${fixed(test.worse, 2)}`, test.better),
        cell("td", "num", seeds, test.seeds),
        cell("td", "num", within(test.crossed_low, test.crossed_high) || "–", test.crossed_low),
        cell("td", "num", `${fixed(test.median)}, ${fixed(test.other_median)}`, test.median),
        cell("td", "num", fixed(test.shift), test.shift),
        cell("td", "num", fixed(test.delta, 2), test.delta),
        cell("td", "num", fixed(test.a12, 2), test.a12),
        cell("td", "num", probability(test.p_mann_whitney) + test.stars, test.p_mann_whitney),
        cell("td", "num", String(test.images), test.images),
        cell("td", "num", probability(test.p_images), test.p_images),
      );
      return row;
    });
    pairTable.tBodies[0].replaceChildren(...rows);
  };

  // The page has the figures of all pairs already: they are written as a file when they are asked for.
  const harmless = (text) => (/^[=+@\t\r-]/.test(text) ? "'" + text : text);
  const quoted = (value) => (value === null ? "" : typeof value === "string" ? `"${harmless(value).replaceAll('"', '""')}"` : String(value));
  const written = {
    csv: () => [data.fields.map(([field]) => field), ...tests.map(Object.values)].map((line) => line.map(quoted).join(",") + "\n").join(""),
    json: () => JSON.stringify(tests, (_, value) => (value === Infinity ? null : value), 1) + "\n",
  };
  for (const button of document.querySelectorAll("[data-download]")) {
    button.addEventListener("click", () => {
      const kind = button.dataset.download;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([written[kind]()], { type: kind === "csv" ? "text/csv" : "application/json" }));
      link.download = `compare-${own}.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
  }

  first.addEventListener("change", () => {
    const other = second.value === first.value ? own : second.value;
    location.href = `${encodeURIComponent(first.value)}.html#${encodeURIComponent(other)}`;
  });
  second.addEventListener("change", () => { history.replaceState(null, "", "#" + encodeURIComponent(second.value)); show(); });
  const asked = decodeURIComponent(location.hash.slice(1));
  if (asked && asked !== own && against.some((each) => each.slug === asked) && asked !== second.value) {
    second.value = asked;
    show();
  }
}
