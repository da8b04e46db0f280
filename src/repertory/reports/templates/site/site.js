/* Copying, filters and search. Every page is whole without it. */
(function () {
  "use strict";
  document.documentElement.classList.add("js");
  document.querySelectorAll(".copies").forEach(function (button) {
    button.hidden = false;
    button.addEventListener("click", function () {
      var code = button.parentElement.querySelector("code"), label = button.textContent;
      function done() {
        button.textContent = button.dataset.done;
        setTimeout(function () { button.textContent = label; }, 1500);
      }
      if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, select);
      else select();
      function select() { getSelection().selectAllChildren(code); }
    });
  });

  var form = document.querySelector(".filters");
  if (!form) return;
  var box = form.querySelector("input[name=q]"), told = form.querySelector("output");
  var cards = Array.from(document.querySelectorAll(".card")), topics = Array.from(document.querySelectorAll(".topic"));
  var results = document.querySelector(".results");
  var homes = new Map(cards.map(function (card) { return [card, card.parentElement]; }));

  function passes(card) {
    return Array.from(form.querySelectorAll("select")).every(function (select) {
      if (!select.value) return true;
      var held = card.dataset[select.name];
      if (select.name === "minutes") return Number(held) <= Number(select.value);
      return held.split(" ").indexOf(select.value) >= 0;
    });
  }

  function ranked() {
    if (!box.value.trim() || !window.repertoryIndex) return null;
    return window.repertorySearch(window.repertoryIndex, box.value).map(function (pair) { return pair[0]; });
  }

  function show() {
    var order = ranked(), shown = 0;
    cards.forEach(function (card) {
      homes.get(card).appendChild(card);
      card.hidden = !passes(card) || (order !== null && order.indexOf(card.dataset.id) < 0);
      if (!card.hidden) shown++;
    });
    if (order !== null) {
      order.forEach(function (id) {
        var card = cards.find(function (one) { return one.dataset.id === id; });
        if (card && !card.hidden) results.appendChild(card);
      });
    }
    results.hidden = order === null;
    topics.forEach(function (topic) { topic.hidden = !topic.querySelector(".card:not([hidden])"); });
    var all = shown === cards.length && order === null;
    told.textContent = all ? "" : shown ? told.dataset.found.replace("{}", shown) : told.dataset.nothing;
  }

  function load() { /* the index is large, and most visitors look around first */
    if (load.begun) return;
    load.begun = true;
    ["search.js", "search-index.js"].forEach(function (name) {
      var script = document.createElement("script");
      script.async = false;
      script.src = box.dataset.index.replace("search-index.js", name);
      script.onload = show;
      document.head.appendChild(script);
    });
  }

  box.addEventListener("focus", load);
  form.addEventListener("input", function () { load(); show(); });
  form.addEventListener("submit", function (event) { event.preventDefault(); load(); show(); });
  form.addEventListener("reset", function () { setTimeout(show); });
  var asked = new URLSearchParams(location.search);
  asked.forEach(function (value, name) { if (form.elements[name]) form.elements[name].value = value; });
  if (box.value) load();
  if (asked.size) show();
})();
