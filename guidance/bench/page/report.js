"use strict";
{
  const group = document.getElementById("group");
  const order = document.getElementById("order");
  const differ = document.getElementById("differ");
  const gallery = document.getElementById("gallery");
  const shown = document.getElementById("shown");

  // A pool ("all sets") names its sets in data-sets of its option.
  const setsOf = () => JSON.parse(group.selectedOptions[0].dataset.sets);

  function filter() {
    for (const part of document.querySelectorAll("[data-group]")) {
      part.classList.toggle("away", part.dataset.group !== group.value && group.value !== "*");
    }
    const sets = setsOf();
    let count = 0;
    for (const item of gallery.children) {
      const away = !sets.includes(item.dataset.set) || (differ.checked && item.dataset.differ === "0");
      item.classList.toggle("away", away);
      count += !away;
    }
    shown.textContent = `${count} of ${gallery.children.length} prompts shown`;
  }

  const keys = {
    run: (item) => Number(item.dataset.run),
    differ: (item) => -Number(item.dataset.differ),
    prompt: (item) => item.dataset.prompt,
  };

  function compare(a, b) {
    return a < b ? -1 : a > b ? 1 : 0;
  }

  function arrange() {
    const key = keys[order.value];
    const items = [...gallery.children];
    items.sort((a, b) => compare(key(a), key(b)) || keys.run(a) - keys.run(b));
    gallery.append(...items);
  }

  function sort(button) {
    const head = button.closest("th");
    const table = head.closest("table");
    const descending = head.getAttribute("aria-sort") !== "descending";
    for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = table.tBodies[0];
    const value = (row) => row.cells[head.cellIndex].dataset.value;
    const rows = [...body.rows].map((row) => [row, value(row)]);
    rows.sort(([, a], [, b]) => {
      if (a === "" || b === "") return (a === "") - (b === ""); // empty cells last, whichever way
      const number = Number(a) - Number(b);
      const result = Number.isNaN(number) ? compare(a, b) : number;
      return descending ? -result : result;
    });
    body.append(...rows.map(([row]) => row));
  }

  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button));
  }
  group.addEventListener("change", filter);
  differ.addEventListener("change", filter);
  order.addEventListener("change", arrange);
  document.querySelector(".bar").hidden = false;
  filter();
  arrange();
}
