"use strict";
// Asks, keeps the answers in this browser, saves them as a file. Sends nothing.
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const slot = "interplay-study-" + study.id;
  const get = (id) => document.getElementById(id);
  const asked = study.questions;
  let memory = null; // where the browser keeps nothing
  let state, steps, shownAt;

  // FNV-1a of the text seeds mulberry32: 32-bit arithmetic, so every browser draws the same.
  function dice(text) {
    let h = 0x811c9dc5;
    for (const c of new TextEncoder().encode(text)) h = Math.imul(h ^ c, 0x01000193) >>> 0;
    return () => {
      h = (h + 0x6d2b79f5) >>> 0;
      let t = Math.imul(h ^ (h >>> 15), h | 1);
      t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  // The order of the pairs and their sides follow from the rater's id alone.
  function plan(rater) {
    const draw = dice(study.id + " " + rater);
    const pairs = study.pairs.slice();
    for (let i = pairs.length - 1; i > 0; i--) {
      const j = Math.floor(draw() * (i + 1));
      [pairs[i], pairs[j]] = [pairs[j], pairs[i]];
    }
    return pairs.map((pair) => {
      const [left, right] = draw() < 0.5 ? pair.pictures : [pair.pictures[1], pair.pictures[0]];
      return { pair: pair.id, prompt: pair.prompt, left, right };
    });
  }

  function freshState() {
    const bytes = crypto.getRandomValues(new Uint8Array(8));
    const rater = Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
    return { study: study.id, rater, started: new Date().toISOString(), undone: 0, answers: [] };
  }

  function fits(found) {
    if (!found || found.study !== study.id || !/^[0-9a-f]{16}$/.test(found.rater) || !Array.isArray(found.answers))
      return false;
    const order = plan(found.rater);
    return found.answers.every((answer, i) => {
      const step = order[Math.floor(i / asked.length)];
      return step && answer.pair === step.pair && answer.question === asked[i % asked.length].id;
    });
  }

  function notice(text) {
    get("notice").textContent = text;
    get("notice").hidden = !text;
  }

  function load() {
    let text = memory;
    try {
      text = localStorage.getItem(slot) ?? memory;
    } catch (error) {
      notice("This browser keeps nothing for this page: finish before you close it.");
    }
    let found = null;
    try {
      found = JSON.parse(text);
    } catch (error) {
      found = undefined;
    }
    if (text !== null && !fits(found)) {
      notice("The answers kept in this browser were damaged; the study starts anew.");
      found = null;
    }
    state = found ?? freshState();
    steps = plan(state.rater);
  }

  function keep() {
    memory = JSON.stringify(state);
    try {
      localStorage.setItem(slot, memory);
    } catch (error) {
      notice("This browser keeps nothing for this page: finish before you close it.");
    }
  }

  const total = () => steps.length * asked.length;
  const here = () => ({
    step: steps[Math.floor(state.answers.length / asked.length)],
    number: Math.floor(state.answers.length / asked.length),
    question: state.answers.length % asked.length,
  });

  function answer(side) {
    if (state.answers.length >= total()) return;
    const { step, question } = here();
    const seconds = Math.round((performance.now() - shownAt) / 100) / 10;
    state.answers.push({
      pair: step.pair, question: asked[question].id, left: step.left, right: step.right, choice: step[side], seconds,
    });
    keep();
    say("");
    show();
  }

  function undo() {
    if (!state.answers.length) return;
    state.answers.pop();
    state.undone++;
    keep();
    say("");
    const fromEnd = !get("end").hidden;
    show();
    if (fromEnd) get("prompt").focus();
  }

  function only(section) {
    for (const id of ["welcome", "compare", "end"]) get(id).hidden = id !== section;
  }

  function drawQuestions() {
    get("questions").replaceChildren(...asked.map((question, i) => {
      const group = document.createElement("fieldset");
      const legend = group.appendChild(document.createElement("legend"));
      legend.textContent = i + 1 + ". " + question.text;
      const two = group.appendChild(document.createElement("div"));
      two.className = "two";
      for (const [side, label, key, name] of [
        ["left", "Left", "←", "ArrowLeft 1"],
        ["right", "Right", "→", "ArrowRight 2"],
      ]) {
        const button = two.appendChild(document.createElement("button"));
        button.type = "button";
        button.dataset.side = side;
        button.textContent = label + " ";
        button.setAttribute("aria-keyshortcuts", name);
        const hint = button.appendChild(document.createElement("kbd"));
        hint.className = "wide";
        hint.textContent = key;
        hint.setAttribute("aria-hidden", "true");
        button.addEventListener("click", () => {
          if (here().question === i) answer(side);
        });
      }
      return group;
    }));
  }

  function picture(image, id) {
    const source = "data:image/png;base64," + study.pictures[id];
    if (image.src === source) return;
    image.onload = () => image.classList.toggle("small", image.naturalWidth <= 256);
    image.src = source;
  }

  function showQuestions(step, question) {
    const past = state.answers.slice(state.answers.length - question);
    get("questions").querySelectorAll("fieldset").forEach((group, i) => {
      group.classList.toggle("now", i === question);
      group.querySelectorAll("button").forEach((button) => {
        const chosen = i < question && past[i].choice === step[button.dataset.side];
        button.setAttribute("aria-pressed", String(chosen));
        button.disabled = i !== question;
      });
    });
  }

  function show() {
    shownAt = performance.now();
    if (state.answers.length >= total()) return showEnd();
    const { step, number, question } = here();
    const focused = document.activeElement?.dataset?.side; // a rater who tabs stays on the side they were on
    only("compare");
    get("where").textContent = "Pair " + (number + 1) + " of " + steps.length;
    get("progress").max = total();
    get("progress").value = state.answers.length;
    get("undo").disabled = !state.answers.length;
    get("prompt").textContent = "“" + step.prompt + "”";
    const [left, right] = get("pictures").querySelectorAll("img");
    picture(left, step.left);
    picture(right, step.right);
    showQuestions(step, question);
    const group = get("questions").children[question];
    if (focused) group.querySelector('[data-side="' + focused + '"]').focus({ preventScroll: true });
    get("voice").textContent =
      "Pair " + (number + 1) + " of " + steps.length + ": " + step.prompt + ". " + asked[question].text;
  }

  function result() {
    return {
      format: "interplay-study-answers-1", study: study.id, rater: state.rater, started: state.started,
      saved: new Date().toISOString(), complete: state.answers.length === total(), asked: total(),
      undone: state.undone, questions: asked, answers: state.answers, key: study.key,
    };
  }

  function showEnd() {
    only("end");
    get("text").value = JSON.stringify(result());
    get("end-title").focus();
  }

  function say(text) {
    for (const place of document.querySelectorAll(".saved")) place.textContent = text;
  }

  function save() {
    const name = "study-" + study.id.slice(0, 8) + "-" + state.rater.slice(0, 8) + ".json";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(result(), null, 1) + "\n"], { type: "application/json" }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    say("Saved as " + name + " where this browser puts downloads.");
  }

  function anew() {
    if (!confirm("Remove the answers from this browser? They are lost unless you have saved them.")) return;
    state = freshState();
    steps = plan(state.rater);
    memory = null;
    try {
      localStorage.removeItem(slot);
    } catch (error) {
      notice("This browser keeps nothing for this page: finish before you close it.");
    }
    say("");
    welcome();
  }

  function welcome() {
    only("welcome");
    get("count").textContent = steps.length;
    get("asked").replaceChildren(...asked.map((question) => {
      const line = document.createElement("li");
      line.textContent = question.text;
      return line;
    }));
  }

  function start() {
    keep();
    show();
    get("prompt").focus();
  }

  function onKey(event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || get("large").open) return;
    const comparing = !get("compare").hidden;
    if (/^(Backspace|u|U)$/.test(event.key) && (comparing || !get("end").hidden)) {
      if (event.target.tagName === "TEXTAREA") return;
      undo();
    } else if (comparing && /^(ArrowLeft|1)$/.test(event.key)) answer("left");
    else if (comparing && /^(ArrowRight|2)$/.test(event.key)) answer("right");
    else return;
    event.preventDefault();
  }

  function zoom(button) {
    const from = button.querySelector("img");
    const image = get("large").querySelector("img");
    image.src = from.src;
    image.alt = from.alt + ", larger";
    image.className = from.className;
    get("large").showModal();
  }

  drawQuestions();
  load();
  get("start").addEventListener("click", start);
  get("undo").addEventListener("click", undo);
  get("back").addEventListener("click", undo);
  get("save").addEventListener("click", save);
  get("part").addEventListener("click", save);
  get("another").addEventListener("click", anew);
  get("close").addEventListener("click", () => get("large").close());
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(button));
  document.addEventListener("keydown", onKey);
  addEventListener("storage", (event) => { // another tab of the same study went on
    if (event.key !== slot) return;
    memory = event.newValue;
    load();
    if (event.newValue === null) welcome();
    else show();
  });
  if (state.answers.length) show();
  else welcome();
})();
