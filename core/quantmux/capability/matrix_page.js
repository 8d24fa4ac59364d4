"use strict";
(() => {
  const root = document.documentElement;
  const by = (id) => document.getElementById(id);
  const all = (query, from = document) => [...from.querySelectorAll(query)];
  const { devices, answers } = JSON.parse(by("data").textContent);
  const table = document.querySelector("table");
  const main = document.querySelector("main");
  const card = by("card");
  root.classList.add("scripted");

  const rows = all("tbody tr:not(.op)").map((tr) => ({
    tr,
    op: tr.parentNode.dataset.op,
    backend: tr.dataset.b,
    scheme: tr.dataset.s,
    label: tr.cells[0].textContent,
    kernel: tr.cells[1].textContent,
    text: `${tr.cells[0].textContent} ${tr.cells[1].textContent} ${tr.parentNode.dataset.op}`.toLowerCase(),
    cells: all("button", tr),
  }));
  const place = new Map();
  for (const row of rows) {
    row.cells.forEach((cell, column) => {
      place.set(cell, { row, column, answer: answers[cell.dataset.a], device: devices[column] });
      const { answer, device } = place.get(cell);
      cell.tabIndex = -1;
      const state = answer.tier ? answer.tier : `does not serve, ${cell.textContent}`;
      cell.setAttribute("aria-label", `${row.kernel} for ${row.label} on ${device.name}: ${state}; ${answer.proof}`);
    });
  }
  if (rows.length && rows[0].cells.length) rows[0].cells[0].tabIndex = 0;

  // ---- filter
  const off = { op: new Set(), b: new Set(), c: new Set() };
  const shownColumns = () => devices.map((d, i) => i).filter((i) => !off.c.has(devices[i].name));
  const columnStyle = document.head.appendChild(document.createElement("style"));

  function apply() {
    const words = by("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const scheme = by("scheme").value;
    const proof = by("proof").value;
    const serves = by("serves").checked;
    const columns = shownColumns();
    let count = 0;
    let previous = "";
    for (const row of rows) {
      const seen = columns.map((i) => answers[row.cells[i].dataset.a]);
      const fits =
        !off.op.has(row.op) && !off.b.has(row.backend) && (!scheme || row.scheme === scheme) &&
        words.every((word) => row.text.includes(word)) &&
        (!serves || seen.some((a) => a.tier)) && (!proof || seen.some((a) => a.mark === proof));
      row.tr.hidden = !fits;
      if (!fits) continue;
      count += 1;
      const group = `${row.op} ${row.label}`;
      row.tr.classList.toggle("again", group === previous);
      previous = group;
    }
    for (const body of table.tBodies) body.hidden = !all("tr:not(.op)", body).some((tr) => !tr.hidden);
    columnStyle.textContent = devices
      .map((d, i) => (off.c.has(d.name) ? `tr:not(.op)>:nth-child(${i + 3}){display:none}` : ""))
      .join("");
    by("none").hidden = count > 0;
    by("count").textContent = `${count} of ${rows.length} rows`;
    hide();
  }

  const form = by("controls");
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", apply);
  form.addEventListener("click", (event) => {
    const button = event.target.closest("button[aria-pressed]");
    if (!button) return;
    const { kind } = button.parentNode.dataset;
    const set = off[kind];
    const names = all("button", button.parentNode).map((b) => b.dataset[kind]);
    const name = button.dataset[kind];
    // the first click of a group means "only this one", the last one off means "all again"
    if (set.size === 0 && !event.ctrlKey && !event.metaKey) names.forEach((n) => n !== name && set.add(n));
    else if (set.has(name)) set.delete(name);
    else set.add(name);
    if (set.size === names.length) set.clear();
    all("button", button.parentNode).forEach((b) => b.setAttribute("aria-pressed", String(!set.has(b.dataset[kind]))));
    apply();
  });
  by("clear").addEventListener("click", () => {
    form.reset();
    Object.values(off).forEach((set) => set.clear());
    all("button[aria-pressed]", form).forEach((b) => b.setAttribute("aria-pressed", "true"));
    apply();
  });
  by("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // ---- card
  let pinned = null;
  const element = (tag, text, name) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (name) made.className = name;
    return made;
  };

  function fill(cell) {
    const { row, answer, device } = place.get(cell);
    const evidence = answer.evidence || {};
    card.replaceChildren(
      element("h3", row.kernel),
      element("p", `${row.label} on ${device.title} (${device.arch})`, "where"),
    );
    const list = element("ul");
    if (answer.tier) list.append(element("li", `serves, tier ${answer.tier}`));
    for (const [code, text, hint] of answer.no || []) {
      const item = element("li");
      item.append(element("code", code), ` ${text}`);
      if (hint) item.append(element("span", `next: ${hint}`, "hint"));
      list.append(item);
    }
    card.append(list);
    if (answer.layouts) card.append(element("h4", "alike"), element("p", answer.layouts.join(", "), "where"));
    card.append(element("h4", "evidence"));
    const facts = element("dl");
    const fact = (name, value, kind) => {
      if (value !== undefined && value !== "") facts.append(element("dt", name), element("dd", String(value), kind));
    };
    fact("shown", answer.proof, evidence.failed ? "bad" : "");
    fact("stale", evidence.why_stale, "why");
    fact("note", evidence.note, evidence.failed ? "bad" : "");
    fact("refused as due", evidence.refused);
    fact("worst error", evidence.worst_error && evidence.worst_error.toExponential(1));
    fact("on", evidence.date);
    fact("driver", evidence.driver);
    fact("with", evidence.versions && Object.entries(evidence.versions).map((pair) => pair.join(" ")).join(", "));
    fact("compiled for", evidence.archs && evidence.archs.join(" "));
    card.append(facts);
  }

  function show(cell) {
    fill(cell);
    card.hidden = false;
    const at = cell.getBoundingClientRect();
    const size = card.getBoundingClientRect();
    const below = at.bottom + 6 + size.height < innerHeight;
    card.style.left = `${Math.max(12, Math.min(at.left, innerWidth - size.width - 12))}px`;
    card.style.top = `${Math.max(12, below ? at.bottom + 6 : at.top - size.height - 6)}px`;
    all("[aria-describedby]", table).forEach((b) => b.removeAttribute("aria-describedby"));
    cell.setAttribute("aria-describedby", "card");
  }

  function pin(cell) {
    if (pinned) pinned.removeAttribute("aria-expanded");
    pinned = cell;
    if (cell) cell.setAttribute("aria-expanded", "true");
  }

  function hide() {
    pin(null);
    card.hidden = true;
  }

  const cellOf = (event) => (event.target.closest ? event.target.closest("td button") : null);
  table.addEventListener("mouseover", (event) => {
    const cell = cellOf(event);
    if (cell && !pinned) show(cell);
  });
  table.addEventListener("mouseout", (event) => {
    if (!pinned && cellOf(event) && document.activeElement !== cellOf(event)) card.hidden = true;
  });
  table.addEventListener("focusin", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    all('td button[tabindex="0"]', table).forEach((b) => { b.tabIndex = -1; });
    cell.tabIndex = 0;
    pin(null);
    show(cell);
  });
  table.addEventListener("focusout", () => { if (!pinned) card.hidden = true; });
  table.addEventListener("click", (event) => {
    const cell = cellOf(event);
    if (!cell) return;
    if (pinned === cell) { hide(); return; }
    cell.focus({ preventScroll: true });
    pin(cell);
    show(cell);
  });
  main.addEventListener("scroll", () => { if (!pinned) card.hidden = true; else hide(); }, { passive: true });

  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { hide(); return; }
    const typing = /INPUT|SELECT|TEXTAREA/.test(event.target.tagName);
    if (event.key === "/" && !typing) { event.preventDefault(); by("find").focus(); return; }
    const move = moves[event.key];
    const here = place.get(event.target);
    if (!move || !here) return;
    event.preventDefault();
    const columns = shownColumns();
    const visible = rows.filter((row) => !row.tr.hidden);
    const row = visible[visible.indexOf(here.row) + move[0]];
    const column = columns[columns.indexOf(here.column) + move[1]];
    if (!row || column === undefined) return;
    row.cells[column].focus({ preventScroll: true });
    reveal(row.cells[column]);
  });

  // ---- what is pinned to the edges must not cover what the keyboard reaches
  const head = table.tHead;
  function reveal(cell) {
    const box = main.getBoundingClientRect();
    const at = cell.getBoundingClientRect();
    const top = box.top + head.offsetHeight + 40;
    const left = box.left + table.rows[0].cells[0].offsetWidth + table.rows[0].cells[1].offsetWidth;
    if (at.top < top) main.scrollTop -= top - at.top;
    if (at.bottom > box.bottom) main.scrollTop += at.bottom - box.bottom + 8;
    if (at.left < left) main.scrollLeft -= left - at.left;
    if (at.right > box.right) main.scrollLeft += at.right - box.right + 8;
    requestAnimationFrame(() => show(cell));
  }
  const measure = () => root.style.setProperty("--head", `${head.offsetHeight}px`);
  addEventListener("resize", measure);
  measure();
  apply();
})();
