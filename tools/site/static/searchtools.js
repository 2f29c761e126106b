/* The search of the site: BM25 over sections. It takes the place of Sphinx's, which knows whole pages only and
   requires every word. `conf.py` writes the index, and language_data.js has the stemmer and the stop words. */
"use strict";

const HEADING = 4; // how often a word of a section's heading counts
const TITLE = 3; // the same, of its page's title; of the first section both count
const SATURATION = 1.2; // of BM25 (k1): many repetitions count little more than a few
const LENGTH = 0.4; // of BM25 (b): how much the length of a section counts
const PER_PAGE = 3; // results of one page
const RESULTS = 30;
const EXCERPT = 40; // words

// Pages that answer come before those that look something up, and these before the reasons.
const PARTS = [
  [/^questions$/, 1.6],
  [/^(how-to\/|start|concepts|platforms|coming-from|index)/, 1.3],
  [/^reference\/api\//, 0.7],
  [/^(changelog|glossary|architecture|contributing|files\/|design\/|reference\/(differences|public-files)|wire-format)/, 0.6],
];

const Search = {
  sections: [],
  words: new Map(), // stem -> Map(section -> weighted count)
  queued: null,

  init: () => {
    const query = new URLSearchParams(window.location.search).get("q");
    document.querySelectorAll('input[name="q"]').forEach((box) => (box.value = query));
    if (query) Search.query(query);
  },

  /** Take the index: pages as [name, title], sections as [page, anchor, heading, text]. */
  setIndex: ({ pages, sections }) => {
    const stems = new Map();
    const stem = (word) => {
      if (!stems.has(word)) stems.set(word, stemmer.stemWord(word));
      return stems.get(word);
    };
    const stemmer = new Stemmer();
    Search.sections = sections.map(([page, anchor, heading, text]) => {
      const [name, title] = pages[page];
      const part = PARTS.find(([pattern]) => pattern.test(name));
      return { name, title, anchor, heading, text, weight: part ? part[1] : 1, length: 0 };
    });
    Search.sections.forEach((section, number) => {
      const add = (text, weight) => {
        for (const word of split(text)) {
          const key = stem(word);
          if (!Search.words.has(key)) Search.words.set(key, new Map());
          const counts = Search.words.get(key);
          counts.set(number, (counts.get(number) || 0) + weight);
          section.length += 1;
        }
      };
      add(section.text, 1);
      add(section.heading, HEADING);
      add(section.title, TITLE);
    });
    Search.length = Search.sections.reduce((sum, section) => sum + section.length, 0) / sections.length;
    if (Search.queued !== null) Search.query(Search.queued);
  },

  /** Return the sections that fit best, best first. */
  rank: (query) => {
    const stemmer = new Stemmer();
    const all = [...new Set(split(query))];
    const telling = all.filter((word) => !stopwords.has(word));
    const terms = (telling.length ? telling : all).map((word) => stemmer.stemWord(word));
    const scores = new Map(); // section -> [score, number of terms]
    for (const term of terms) {
      const postings = Search.postings(term);
      const rarity = Math.log(1 + (Search.sections.length - postings.size + 0.5) / (postings.size + 0.5));
      for (const [number, count] of postings) {
        const section = Search.sections[number];
        const norm = SATURATION * (1 - LENGTH + (LENGTH * section.length) / Search.length);
        const [score, found] = scores.get(number) || [0, 0];
        scores.set(number, [score + rarity * (count / (count + norm)), found + 1]);
      }
    }
    const ranked = [...scores].map(([number, [score, found]]) => {
      const section = Search.sections[number];
      const share = found / terms.length;
      return { ...section, terms, score: score * share * share * section.weight };
    });
    ranked.sort((a, b) => b.score - a.score);
    const shown = new Map();
    return ranked.filter(({ name }) => {
      shown.set(name, (shown.get(name) || 0) + 1);
      return shown.get(name) <= PER_PAGE;
    });
  },

  /** Return the weighted counts of a word by section; of the words that begin with it if it is in none. */
  postings: (term) => {
    if (Search.words.has(term) || term.length < 3) return Search.words.get(term) || new Map();
    const counts = new Map();
    for (const [word, found] of Search.words) {
      if (!word.startsWith(term)) continue;
      for (const [number, count] of found) counts.set(number, (counts.get(number) || 0) + count / 2);
    }
    return counts;
  },

  query: (query) => {
    const output = document.getElementById("search-results");
    output.replaceChildren(element("h2", "Search results"));
    if (!Search.sections.length) {
      Search.queued = query;
      return;
    }
    const results = Search.rank(query);
    const pages = new Set(results.map(({ name }) => name)).size;
    const summary = results.length ? `Found on ${pages} page${pages === 1 ? "" : "s"}.` : "Nothing found.";
    output.append(element("p", summary, "search-summary"));
    const list = output.appendChild(element("ul", "", "search"));
    list.setAttribute("role", "list");
    results.slice(0, RESULTS).forEach((result) => list.append(show(result)));
    localStorage.setItem("sphinx_highlight_terms", split(query).filter((word) => !stopwords.has(word)).join(" "));
  },
};

function split(text) {
  return text.toLowerCase().match(/[\p{Letter}\p{Number}]+/gu) || [];
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function show({ name, title, anchor, heading, text, terms }) {
  const item = document.createElement("li");
  const link = item.appendChild(element("a", heading));
  link.href = `${document.documentElement.dataset.content_root}${name}.html${anchor ? `#${anchor}` : ""}`;
  if (title !== heading) item.append(` (${title})`);
  const context = item.appendChild(element("p", "", "context"));
  for (const [words, found] of excerpt(text, terms)) {
    context.append(found ? element("span", words, "highlighted") : words);
  }
  return item;
}

/** Return the part of a text with the most words of the query, as pairs: a piece, and whether it is such a word. */
function excerpt(text, terms) {
  const stemmer = new Stemmer();
  const pieces = text.match(/[\p{Letter}\p{Number}]+|[^\p{Letter}\p{Number}]+/gu) || [];
  const found = pieces.map((piece) => terms.indexOf(stemmer.stemWord(piece.toLowerCase())));
  let [best, most] = [0, 0];
  for (let begin = 0; begin < pieces.length; begin += 8) {
    const distinct = new Set(found.slice(begin, begin + 2 * EXCERPT).filter((term) => term >= 0)).size;
    if (distinct > most) [best, most] = [begin, distinct];
  }
  const end = best + 2 * EXCERPT;
  const cut = pieces.slice(best, end).map((piece, number) => [piece, found[best + number] >= 0]);
  return [...(best ? [["… ", false]] : []), ...cut, ...(end < pieces.length ? [[" …", false]] : [])];
}

document.addEventListener("DOMContentLoaded", Search.init);
