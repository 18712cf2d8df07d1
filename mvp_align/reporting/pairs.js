// The table of pairs. What the data says is only ever set as textContent.
"use strict";

(() => {
  const ROWS = 25;
  const FOLDED = 1500;
  const part = (name) => document.getElementById(`pairs-${name}`);
  const data = JSON.parse(part("data").textContent);
  const { stages, margins, columns } = data;
  const several = data.sets.length > 1;
  const both = stages.length === 2;
  const about = columns.slice(0, 2);
  let places = [];
  let sorted = { by: -1, down: false };
  let page = 0;
  let open = 0;

  function add(parent, tag, text, set = {}) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(set)) made.setAttribute(name, value);
    parent.append(made);
    return made;
  }

  const group = (column, place) => column.groups[column.of[place]] ?? "";
  const right = (stage, place) => margins[stage][place] > 0;
  const scored = (stage, place) => margins[stage][place] !== null;
  const change = (place) => (both && stages.every((stage) => scored(stage, place))
    ? margins.tuned[place] - margins.base[place] : null);
  const size = (value) => (value < 0.005 ? value.toPrecision(1) : value.toFixed(2));
  const signed = (value) => (value === null ? "-" : (value < 0 ? "−" : "+") + size(Math.abs(value)));
  const marked = (stage, place) => (scored(stage, place)
    ? `${signed(margins[stage][place])} ${right(stage, place) ? "✓" : "✗"}` : "-");

  // Filters: a name, what can be chosen, and whether a pair is of choice number k.

  function flipped(k, place) {
    const [before, after] = stages.map((stage) => right(stage, place));
    return change(place) !== null && before !== after && after === (k === 0);
  }

  const filters = [
    ...(several ? [{ name: "set", choices: data.sets, fits: (k, at) => data.set[at] === k }] : []),
    ...columns.map((column) => ({
      name: column.name, choices: column.groups, fits: (k, at) => column.of[at] === k,
    })),
    ...stages.map((stage) => ({
      name: `${stage} model`,
      choices: ["right", "wrong"],
      fits: (k, at) => scored(stage, at) && right(stage, at) === (k === 0),
    })),
    ...(both ? [{ name: "flipped", choices: ["to right", "to wrong"], fits: flipped }] : []),
  ];

  function makeFilters() {
    filters.forEach((filter, number) => {
      const box = add(part("filters"), "div");
      add(box, "label", filter.name, { for: `pairs-filter-${number}` });
      filter.select = add(box, "select", undefined, { id: `pairs-filter-${number}` });
      add(filter.select, "option", "all", { value: "" });
      filter.choices.forEach((choice, k) => add(filter.select, "option", choice || "(empty)", { value: k }));
    });
  }

  const wordsOf = (value) => (typeof value === "string" ? [value]
    : Object.values(value ?? {}).flatMap(wordsOf));
  const searched = [];
  function searchedText(place) {
    searched[place] ??= [
      data.ids[place], data.users[place], ...columns.map((column) => group(column, place)),
      ...wordsOf(data.texts[place]),
    ].join("\n").toLowerCase();
    return searched[place];
  }

  // Columns of the table: a head, what they sort by, and what a cell says.

  const heads = [
    { name: "pair", key: (place) => place },
    ...stages.map((stage) => ({
      name: stage, key: (place) => margins[stage][place], says: (place) => marked(stage, place),
    })),
    ...(both ? [{ name: "change", key: change, says: (place) => signed(change(place)) }] : []),
  ];

  function makeHeads() {
    const row = part("table").tHead.rows[0];
    heads.forEach((head, number) => {
      head.cell = add(row, "th", undefined, { scope: "col" });
      head.button = add(head.cell, "button", head.name, { type: "button" });
      head.button.addEventListener("click", () => {
        sorted = { by: number, down: sorted.by === number && !sorted.down };
        show();
      });
      if (number === 0 && about.length) {
        add(row, "th", about.map((one) => one.name).join(", "), { scope: "col", class: "pairs-about" });
      }
    });
  }

  function find() {
    const words = part("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = filters.filter((filter) => filter.select.value !== "")
      .map((filter) => (place) => filter.fits(Number(filter.select.value), place));
    places = data.ids.map((_, place) => place).filter((place) => (
      chosen.every((fits) => fits(place)) && words.every((word) => searchedText(place).includes(word))
    ));
    page = 0;
    show();
  }

  function sort() {
    if (sorted.by < 0) return;
    const { key } = heads[sorted.by];
    const way = sorted.down ? -1 : 1;
    places.sort((a, b) => {  // what was not measured comes last, either way
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return way * (x - y) || a - b;
    });
  }

  function show() {
    sort();
    const pages = Math.max(1, Math.ceil(places.length / ROWS));
    page = Math.min(page, pages - 1);
    const count = (number) => number.toLocaleString("en");
    part("status").textContent =
      `${count(places.length)} of ${count(data.ids.length)} pairs, page ${page + 1} of ${count(pages)}`;
    part("back").disabled = page === 0;
    part("next").disabled = page === pages - 1;
    heads.forEach(({ cell, button, name }, number) => {
      const on = sorted.by === number;
      cell.setAttribute("aria-sort", on ? (sorted.down ? "descending" : "ascending") : "none");
      button.textContent = on ? `${name} ${sorted.down ? "↓" : "↑"}` : name;
    });
    const body = part("table").tBodies[0];
    body.replaceChildren();
    for (const place of places.slice(page * ROWS, (page + 1) * ROWS)) addRow(body, place);
  }

  function addRow(body, place) {
    const row = add(body, "tr");
    const first = add(row, "th", undefined, { scope: "row" });
    const button = add(first, "button", data.ids[place], { type: "button", dir: "auto" });
    button.addEventListener("click", () => openPair(place));
    const texts = data.texts[place];
    if (texts) add(first, "span", texts.question.slice(0, 300), { class: "pairs-excerpt", dir: "auto" });
    if (about.length) {
      const said = about.map((column) => group(column, place)).filter(Boolean).join(", ");
      add(row, "td", said, { class: "pairs-about", dir: "auto" });
    }
    for (const head of heads.slice(1)) add(row, "td", head.says(place));
  }

  // The pair that is open.

  function addList(parent, entries) {
    const list = add(parent, "dl");
    for (const [name, value] of entries) {
      if (value === "") continue;
      const both = add(list, "div");
      add(both, "dt", name);
      add(both, "dd", value, { dir: "auto" });
    }
  }

  function addText(parent, title, text) {
    add(parent, "h4", title);
    const long = text.length > FOLDED;
    const start = text.slice(0, FOLDED).replace(/[\ud800-\udbff]$/, "");
    const shown = add(parent, "p", long ? `${start} …` : text, { class: "pairs-text", dir: "auto" });
    if (!long) return;
    const more = add(parent, "button", `Show all ${text.length.toLocaleString("en")} characters`,
      { type: "button" });
    more.addEventListener("click", () => {
      shown.textContent = text;
      shown.tabIndex = -1;
      more.remove();
      shown.focus();
    });
  }

  function showPair(place) {
    open = place;
    part("open").textContent = data.ids[place];
    const numbers = stages.map((stage) => [`${stage} margin, nats a token`, marked(stage, place)]);
    if (both) numbers.push(["change", signed(change(place))]);
    const box = part("pair");
    box.replaceChildren();
    addList(box, [
      ...numbers, ["set", several ? data.sets[data.set[place]] : ""], ["person", data.users[place]],
      ...columns.map((column) => [column.name, group(column, place)]),
    ]);
    const texts = data.texts[place];
    if (!texts) {
      add(box, "p", "The texts of this pair are not in this page.", { class: "quiet" });
    } else {
      addText(box, "Question", texts.question);
      if (texts.profile.length) add(box, "h4", "Who asks");
      addList(box, texts.profile);
      addText(box, "Fits the person (chosen)", texts.chosen);
      addText(box, "Contradicts the person (rejected)", texts.rejected);
      for (const { stage, answer, cut, said } of texts.answers) {
        addText(box, `Answer of the ${stage} model${cut ? ", cut at the token limit" : ""}`, answer);
        for (const line of said) add(box, "p", line, { class: "quiet", dir: "auto" });
      }
    }
    const at = places.indexOf(place);
    part("before").disabled = at <= 0;
    part("after").disabled = at === places.length - 1;
    part("dialog").scrollTop = 0;
  }

  function openPair(place) {
    showPair(place);
    part("dialog").showModal();
    part("open").focus();
  }

  function step(by) {
    const next = places[places.indexOf(open) + by];
    if (next === undefined) return;
    showPair(next);
    part("open").focus();
  }

  makeFilters();
  makeHeads();
  part("form").addEventListener("submit", (event) => event.preventDefault());
  part("form").addEventListener("input", find);
  part("back").addEventListener("click", () => { page -= 1; show(); });
  part("next").addEventListener("click", () => { page += 1; show(); });
  part("close").addEventListener("click", () => part("dialog").close());
  part("before").addEventListener("click", () => step(-1));
  part("after").addEventListener("click", () => step(1));
  part("dialog").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  part("explorer").hidden = false;
  part("section").classList.add("pairs-live");
  find();
})();
