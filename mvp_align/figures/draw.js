// Draws the figures of a page. `vegaEmbed` is in the same script. Expressions are interpreted and
// not compiled (`ast`), so that a page needs no permission to make code of text.

const options = { ast: true, mode: "vega-lite", renderer: "svg", actions: false };

const MARKS = ["value", "ceiling", "country", "line"]
  .map((role) => `[aria-roledescription=${role}]`).join();

function specification(figure) {
  const script = figure.querySelector("script");
  const spec = JSON.parse(script.textContent);
  const name = script.dataset.shared;
  if (name) {
    const shared = JSON.parse(document.getElementById("shared-" + name).textContent);
    spec.datasets = { ...spec.datasets, [name]: shared };
  }
  return spec;
}

const sayIn = (figure) => (text) => { figure.querySelector(".readout").textContent = text; };

// One stop of the Tab key a figure; the arrow keys go from mark to mark, and say each.
function makeReadable(figure) {
  const svg = figure.querySelector("svg");
  const marks = () => [...svg.querySelectorAll(MARKS)];
  let at = -1;
  const say = sayIn(figure);
  const leave = () => {
    svg.querySelectorAll(".reached").forEach((mark) => mark.classList.remove("reached"));
    at = -1;
    say("");
  };
  svg.tabIndex = 0;
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = marks();
    const next = Math.min(all.length - 1, Math.max(0, at + step));
    leave();
    at = next;
    all[at]?.classList.add("reached");
    say(all[at]?.getAttribute("aria-label") ?? "");
  });
  svg.addEventListener("blur", leave);
}

async function draw(figure) {
  if (figure.dataset.drawn) return;
  figure.dataset.drawn = "begun";
  const plot = figure.querySelector(".plot");
  try {
    const say = sayIn(figure);
    const tooltip = (handler, event, item, value) => say(typeof value === "string" ? value : "");
    await vegaEmbed(plot, specification(figure), { ...options, tooltip });
    makeReadable(figure);
    figure.dataset.drawn = "yes";
  } catch (error) {
    figure.dataset.drawn = "failed";
    plot.textContent = "This figure could not be drawn: " + error.message;
    console.error(error);
  }
}

// A figure that is hidden has no width: it is drawn when it is shown.
const seen = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) if (contentRect.width > 0) draw(target);
});
document.querySelectorAll("figure.drawn").forEach((figure) => seen.observe(figure));

// A choice among figures shows one of them.
document.querySelectorAll("select[data-figures]").forEach((select) => {
  const show = () => {
    for (const { value } of select.options) {
      document.getElementById(value).hidden = value !== select.value;
    }
  };
  select.addEventListener("change", show);
  show();
});
