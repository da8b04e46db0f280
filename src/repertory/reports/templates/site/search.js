/* Search in the browser: the same tokens as repertory.textsearch (words; pairs of Chinese characters), scored ahead. */
(function (scope) {
  "use strict";
  var STOP = new Set("STOP_WORDS".split(" "));
  var HAN = /[\u3400-\u9fff]/;

  function stem(word) {
    if (word.length < 5 || !/^[a-z]+$/.test(word)) return word;
    var cut = word.replace(/(ations?|ings?|ions?|ies|ied|ed|es|s|e|y)$/, "");
    return cut.length >= 3 ? cut : word;
  }

  function tokens(query) {
    var found = [];
    var runs = query.normalize("NFKC").toLowerCase().match(/[\u3400-\u9fff]+|[^\u3400-\u9fff]+/g) || [];
    runs.forEach(function (run) {
      if (HAN.test(run[0])) {
        if (run.length === 1) found.push(run);
        for (var i = 0; i + 1 < run.length; i++) found.push(run.slice(i, i + 2));
      } else {
        (run.match(/[\p{L}\p{N}]+/gu) || []).forEach(function (word) {
          if (!STOP.has(word)) found.push(stem(word));
        });
      }
    });
    return found;
  }

  function distance(a, b) {
    var row = Array.from({ length: b.length + 1 }, function (_, j) { return j; });
    for (var i = 1; i <= a.length; i++) {
      var before = row[0];
      row[0] = i;
      for (var j = 1; j <= b.length; j++) {
        var kept = row[j];
        row[j] = Math.min(row[j] + 1, row[j - 1] + 1, before + (a[i - 1] === b[j - 1] ? 0 : 1));
        before = kept;
      }
    }
    return row[b.length];
  }

  /* The words of the index that a word of the query stands for: itself, those it begins, or the closest one. */
  function meant(index, word) {
    if (index.words[word] && !(HAN.test(word) && word.length === 1)) return [word];
    var all = Object.keys(index.words);
    if (HAN.test(word) || word.length > 2) {
      var begun = all.filter(function (other) { return other.startsWith(word); });
      if (begun.length) return begun;
    }
    if (HAN.test(word) || word.length < 4) return [];
    var near = all.map(function (other) { return [distance(word, other), other]; })
      .filter(function (pair) { return pair[0] <= (word.length > 7 ? 2 : 1); })
      .sort(function (a, b) { return a[0] - b[0] || (a[1] < b[1] ? -1 : 1); });
    return near.length ? [near[0][1]] : [];
  }

  /* [paper, score] of the papers that match, best first; weak matches are cut off. */
  function search(index, query) {
    var scores = new Map();
    tokens(query).forEach(function (word) {
      var best = new Map();
      meant(index, word).forEach(function (other) {
        var flat = index.words[other];
        for (var i = 0; i < flat.length; i += 2) best.set(flat[i], Math.max(best.get(flat[i]) || 0, flat[i + 1]));
      });
      best.forEach(function (score, paper) { scores.set(paper, (scores.get(paper) || 0) + score); });
    });
    var found = Array.from(scores).sort(function (a, b) { return b[1] - a[1] || a[0] - b[0]; });
    return found.filter(function (pair) { return pair[1] >= index.least * found[0][1]; })
      .map(function (pair) { return [index.papers[pair[0]], pair[1]]; });
  }

  scope.repertorySearch = search;
  if (typeof module !== "undefined") module.exports = search;
})(typeof window === "undefined" ? globalThis : window);
