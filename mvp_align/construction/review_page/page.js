// Texts of the data are only ever set as textContent or as the value of a text field.
"use strict";

const part = (name) => document.getElementById(name);
const PLACES = [0, 1, 2];
const SAID = { accept: "accepted", reject: "rejected", edit: "edited" };
let decisions = [];
let shown = null;
let editing = false;
let busy = false;

async function ask(path, sent) {
  const options = sent === undefined ? {} : { method: "POST", body: JSON.stringify(sent) };
  let answer, value;
  try {
    answer = await fetch(path, options);
    value = await answer.json();
  } catch {
    throw new Error("The command that serves this page does not answer. Nothing was kept.");
  }
  if (!answer.ok) throw new Error(value.problem);
  return value;
}

function showProgress() {
  const count = (wanted) => decisions.filter((one) => one === wanted).length;
  const left = count(null);
  const parts = Object.entries(SAID).map(([key, word]) => `${count(key)} ${word}`);
  const end = left ? `${left} to go` : "all decided: end the command by Ctrl+C";
  part("progress").textContent = `${parts.join(", ")}, ${end}`;
}

function line(parent, tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  parent.append(made);
  return made;
}

function show(pair) {
  shown = pair;
  decisions[pair.number] = pair.decision;
  part("number").textContent = `${pair.number + 1} of ${decisions.length}`;
  part("id").textContent = pair.id;
  part("decision").textContent = SAID[pair.decision] ?? "";
  part("findings").replaceChildren();
  for (const found of pair.findings) line(part("findings"), "li", found);
  part("person").replaceChildren();
  for (const [name, value] of pair.person) {
    const both = line(part("person"), "div", "");
    line(both, "dt", name);
    line(both, "dd", value);
  }
  for (const place of PLACES) part(`t${place}`).textContent = pair.texts[place];
  setEditing(false);
  showProgress();
}

function setEditing(wanted) {
  editing = wanted;
  for (const place of PLACES) {
    part(`t${place}`).hidden = wanted;
    part(`e${place}`).hidden = !wanted;
    part(`e${place}`).value = shown.texts[place];
  }
  part("reading").hidden = wanted;
  part("editing").hidden = !wanted;
  if (wanted) part("e1").focus();
  else document.activeElement.blur();
}

async function goTo(number) {
  if (number < 0 || number >= decisions.length) return;
  show(await ask(`pair/${number}`));
  window.scrollTo(0, 0);
}

async function goToUndecided() {
  const order = decisions.map((_, place) => (shown.number + 1 + place) % decisions.length);
  const next = order.find((number) => decisions[number] === null);
  if (next !== undefined) await goTo(next);
}

async function decide(decision, texts) {
  show(await ask("decision", { number: shown.number, decision, ...(texts && { texts }) }));
  if (decision !== "withdraw") await goToUndecided();
}

// A text field has \n for every line break: what was not changed stays as it was.
function editedText(place) {
  const before = shown.texts[place];
  const now = part(`e${place}`).value;
  return now === before.replace(/\r\n?/g, "\n") ? before : now;
}

const ACTIONS = {
  accept: () => (shown.decision === "edit" ? decide("edit", shown.texts) : decide("accept")),
  reject: () => decide("reject"),
  edit: () => setEditing(true),
  withdraw: () => decide("withdraw"),
  back: () => goTo(shown.number - 1),
  next: () => goTo(shown.number + 1),
  open: () => goToUndecided(),
  save: () => decide("edit", PLACES.map(editedText)),
  cancel: () => setEditing(false),
};
const KEYS = {
  a: "accept", r: "reject", e: "edit", u: "withdraw", k: "back", ArrowLeft: "back",
  j: "next", ArrowRight: "next", n: "open",
};

// One action at a time: a key that is held down decides no pair that nobody saw.
async function run(action) {
  if (busy || shown === null) return;
  busy = true;
  part("problem").textContent = "";
  try {
    await action();
  } catch (error) {
    part("problem").textContent = error.message;
  } finally {
    busy = false;
  }
}

for (const [name, action] of Object.entries(ACTIONS)) {
  part(name).addEventListener("click", () => run(action));
}
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.isComposing || event.altKey || event.metaKey) return;
  let name = editing || event.ctrlKey ? undefined : KEYS[event.key];
  if (editing && event.ctrlKey && event.key === "Enter") name = "save";
  if (editing && event.key === "Escape") name = "cancel";
  if (name === undefined) return;
  event.preventDefault();
  run(ACTIONS[name]);
});

async function start() {
  const found = await ask("overview");
  decisions = found.decisions;
  document.title = `Review of pairs: ${found.reviewer}`;
  const open = decisions.indexOf(null);
  show(await ask(`pair/${open < 0 ? 0 : open}`));
}
start().catch((error) => { part("problem").textContent = error.message; });
