"use strict";
(() => {
  const PAGE = 60;
  const form = document.getElementById("controls"), list = document.getElementById("cards");
  const more = document.getElementById("more"), count = document.getElementById("count");
  const cards = [...list.children], keys = ["question", "model", "label", "method"];
  const field = (id) => document.getElementById(id);
  let most = PAGE;

  const number = (id, other) => {
    const value = parseFloat(field(id).value);
    return Number.isNaN(value) ? other : value;
  };

  const orders = {
    radius: (a, b) => a.dataset.radius - b.dataset.radius,
    "-radius": (a, b) => b.dataset.radius - a.dataset.radius,
    label: (a, b) => a.dataset.label.localeCompare(b.dataset.label) || a.dataset.radius - b.dataset.radius,
    id: (a, b) => a.dataset.id - b.dataset.id,
  };

  function show() {
    const low = number("low", -Infinity), high = number("high", Infinity);
    const fits = (card) =>
      card.dataset.radius >= low && card.dataset.radius <= high &&
      keys.every((key) => !field("f-" + key) || !field("f-" + key).value || field("f-" + key).value === card.dataset[key]);
    const kept = cards.filter(fits).sort(orders[field("sort").value]);
    const seen = new Set(kept.slice(0, most));
    for (const card of cards) card.hidden = !seen.has(card);
    list.append(...kept);
    more.hidden = kept.length <= most;
    count.textContent = kept.length <= most ? `${kept.length} shown` : `${most} of ${kept.length} shown`;
  }

  form.hidden = false;
  const question = field("f-question");
  if (question.options.length > 2) question.options[1].defaultSelected = question.options[1].selected = true; // radii of one metric
  form.addEventListener("input", () => { most = PAGE; show(); });
  form.addEventListener("reset", () => setTimeout(() => { most = PAGE; show(); }));
  form.addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const next = list.querySelectorAll("li:not([hidden])").length;
    most += PAGE;
    show();
    const first = list.children[next];
    first.tabIndex = -1;
    first.focus();
  });
  // a printed page shows what was chosen, not what was scrolled to
  show();
})();
