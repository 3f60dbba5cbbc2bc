// The gallery of a run. Data come by script tags (a page from disk may not fetch): data/index.js calls GALLERY.start, data/record-N.js
// GALLERY.records. Texts reach the page as textContent only.
"use strict";
const GALLERY = (() => {
  const GAP = 6, MANY = 40;
  let run = null, shown = [], here = 0, chosen = [], cell = 128, up = true, opener = null;
  const filters = new Map(), records = new Map(), waiting = new Map();
  const $ = id => document.getElementById(id);
  const make = (tag, text, name) => {
    const e = document.createElement(tag);
    if (text !== undefined) e.textContent = text;
    if (name) e.className = name;
    return e;
  };
  const column = name => run.columns.find(c => c.name === name);
  const value = (c, row) => c.values ? c.values[c.codes[row]] : c.numbers[row];
  const pad = (n, width) => String(n).padStart(width, "0");
  const file = row => "images/" + pad(Math.floor(run.index[row] / 1000), 4) + "/" + pad(run.index[row], 6) + run.extension;

  // ---- filters and order ----
  const passes = row => {
    for (const [c, f] of filters) {
      const v = value(c, row);
      if (f.set && f.set.size && !f.set.has(c.values ? c.codes[row] : v)) return false;
      if (f.low !== undefined && v < f.low || f.high !== undefined && v > f.high) return false;
      if (f.text && !String(v).toLowerCase().includes(f.text)) return false;
    }
    return true;
  };
  const update = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(w => w), prompt = column("prompt"), by = column($("sort").value);
    const keep = shown[here];
    shown = [];
    const hit = prompt && words.length && prompt.values ? prompt.values.map(v => words.every(w => v.toLowerCase().includes(w))) : null;
    for (let row = 0; row < run.n; row++)
      if ((!hit || hit[prompt.codes[row]]) && passes(row)) shown.push(row);
    if (by) {
      const rank = by.values && by.values.map((v, i) => [v, i]).sort((a, b) => a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0)
        .reduce((m, [, i], k) => (m[i] = k, m), []);
      const key = row => rank ? rank[by.codes[row]] : by.numbers[row];
      shown.sort((a, b) => (up ? 1 : -1) * (key(a) - key(b)) || a - b);
    }
    here = Math.max(0, shown.indexOf(keep));
    $("count").textContent = shown.length === run.n ? run.n + " images" : shown.length + " of " + run.n + " images";
    draw(true);
  };
  const addChoice = (box, c, f, code, text, n) => {
    const label = make("label"), input = make("input");
    input.type = "checkbox";
    input.onchange = () => { input.checked ? f.set.add(code) : f.set.delete(code); update(); };
    f.inputs.push([input, code]);
    label.append(input, make("span", text === "" ? "(none)" : String(text)), make("small", n));
    box.append(label);
  };
  const addFilter = c => {
    const f = { set: new Set(), inputs: [] }, box = make("fieldset");
    const counts = new Map();
    for (let row = 0; row < run.n; row++) {
      const k = c.values ? c.codes[row] : c.numbers[row];
      counts.set(k, (counts.get(k) || 0) + 1);
    }
    if (counts.size < 2) return;
    box.append(make("legend", c.name));
    box.dataset.column = c.name;
    filters.set(c, f);
    if (counts.size <= MANY) {
      for (const k of [...counts.keys()].sort((a, b) => a - b)) addChoice(box, c, f, k, c.values ? c.values[k] : k, counts.get(k));
    } else if (c.values) {
      const input = make("input");
      input.type = "search";
      input.setAttribute("aria-label", c.name + " contains");
      input.oninput = () => { f.text = input.value.toLowerCase(); update(); };
      f.inputs.push([input]);
      box.append(input);
    } else {
      for (const side of ["low", "high"]) {
        const input = make("input");
        input.type = "number";
        input.placeholder = side === "low" ? "from" : "to";
        input.setAttribute("aria-label", c.name + " " + input.placeholder);
        input.oninput = () => { f[side] = input.value === "" ? undefined : Number(input.value); update(); };
        f.inputs.push([input]);
        box.append(input);
      }
    }
    $("filters").append(box);
  };
  const clear = () => {
    for (const f of filters.values()) {
      f.set.clear();
      f.text = f.low = f.high = undefined;
      for (const [input] of f.inputs) input.type === "checkbox" ? input.checked = false : input.value = "";
    }
    $("search").value = "";
    update();
  };

  // ---- the grid: only what is in sight is in the page ----
  const across = () => Math.max(1, Math.floor(($("grid").clientWidth - GAP) / (cell + GAP)));
  const paint = (e, row) => {
    const t = run.thumb, place = row % t.each, k = cell / t.side;
    e.style.backgroundImage = "url(thumbs/" + pad(Math.floor(row / t.each), 5) + ".webp)";
    e.style.backgroundSize = t.across * cell + "px auto";
    e.style.backgroundPosition = -(place % t.across) * t.side * k + "px " + -Math.floor(place / t.across) * t.side * k + "px";
  };
  const draw = anew => {
    const n = across(), space = $("space"), grid = $("grid");
    space.style.height = Math.ceil(shown.length / n) * (cell + GAP) + GAP + "px";
    const first = Math.max(0, Math.floor(grid.scrollTop / (cell + GAP)) - 1) * n;
    const last = Math.min(shown.length, first + (Math.ceil((grid.clientHeight || 600) / (cell + GAP)) + 3) * n);
    const old = new Map();
    for (const e of [...space.children]) anew ? e.remove() : old.set(Number(e.dataset.at), e);
    for (let at = first; at < last; at++) {
      const row = shown[at];
      let e = old.get(at);
      old.delete(at);
      if (!e) {
        e = make("div", undefined, "cell");
        e.dataset.at = at;
        e.dataset.row = row;
        e.style.width = e.style.height = cell + "px";
        e.style.left = GAP + at % n * (cell + GAP) + "px";
        e.style.top = GAP + Math.floor(at / n) * (cell + GAP) + "px";
        const prompt = column("prompt");
        e.title = "#" + run.index[row] + (prompt ? "  " + value(prompt, row) : "");
        paint(e, row);
        e.onclick = ev => { here = at; ev.shiftKey || ev.ctrlKey ? choose(row) : open([row]); draw(); };
        space.append(e);
      }
      e.classList.toggle("here", at === here);
      e.classList.toggle("chosen", chosen.includes(row));
      e.dataset.place = "AB"[chosen.indexOf(row)] || "";
    }
    for (const e of old.values()) e.remove();
  };
  const move = by => {
    here = Math.min(Math.max(0, here + by), Math.max(0, shown.length - 1));
    const y = Math.floor(here / across()) * (cell + GAP), grid = $("grid");
    if (y < grid.scrollTop) grid.scrollTop = y;
    if (y + cell + 2 * GAP > grid.scrollTop + grid.clientHeight) grid.scrollTop = y + cell + 2 * GAP - grid.clientHeight;
    draw();
  };
  const choose = row => {
    if (row === undefined) return;
    chosen = chosen.includes(row) ? chosen.filter(r => r !== row) : [...chosen.slice(-1), row];
    $("compare").disabled = chosen.length < 2;
    draw();
  };

  // ---- one image, or two side by side ----
  const load = row => new Promise(done => {
    const k = Math.floor(row / run.chunk);
    if (records.has(k)) return done(records.get(k)[row % run.chunk]);
    if (!waiting.has(k)) {
      waiting.set(k, []);
      const s = make("script");
      s.src = "data/record-" + pad(k, 5) + ".js";
      s.onerror = () => { for (const f of waiting.get(k)) f({ error: s.src + " cannot be read" }); waiting.delete(k); };
      document.head.append(s);
    }
    waiting.get(k).push(list => done(Array.isArray(list) ? list[row % run.chunk] : list));
  });
  const plain = v => v !== null && typeof v === "object" ? JSON.stringify(v, null, 1) : String(v);
  const pane = (row, record, other) => {
    const p = make("div", undefined, "pane"), figure = make("figure"), img = make("img"), table = make("table"), link = make("a");
    img.src = file(row);
    img.alt = record.prompt || "";
    if (record.width * 2 < window.innerWidth / 2) {
      img.className = "small";
      img.width = record.width * Math.max(1, Math.min(8, Math.floor(Math.min(600, window.innerWidth / 3) / record.width)));
    }
    link.href = file(row);
    link.textContent = file(row);
    const caption = make("figcaption");
    caption.append(link);
    figure.append(img, caption);
    for (const key of Object.keys(record)) {
      const tr = make("tr");
      if (other && plain(other[key]) !== plain(record[key])) tr.className = "differs";
      tr.append(make("th", key), make("td", plain(record[key])));
      table.append(tr);
    }
    p.append(figure, table);
    return p;
  };
  const open = async rows => {
    const list = await Promise.all(rows.map(load));
    opener = rows;
    $("panes").replaceChildren(...rows.map((row, i) => pane(row, list[i], list[1 - i])));
    $("viewer").hidden = false;
    $("viewer").querySelector(".close").focus();
    history.replaceState(null, "", "#" + (rows.length > 1 ? "c=" : "i=") + rows.map(r => run.index[r]).join(","));
  };
  const close = () => {
    $("viewer").hidden = true;
    opener = null;
    history.replaceState(null, "", "#");
    $("grid").focus();
    draw();
  };
  const key = ev => {
    if (ev.target.tagName === "INPUT" || ev.target.tagName === "SELECT") {
      if (ev.key === "Escape") $("grid").focus();
      return;
    }
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: across(), Home: -shown.length, End: shown.length,
                    PageUp: -across() * 5, PageDown: across() * 5 };
    if (ev.ctrlKey || ev.metaKey || ev.altKey) return;
    if (ev.key in steps) {
      if (opener && opener.length > 1) return;
      move(opener && Math.abs(steps[ev.key]) > 1 && ev.key.startsWith("Arrow") ? Math.sign(steps[ev.key]) : steps[ev.key]);
      if (opener) open([shown[here]]);
    } else if (ev.key === "Escape" && opener) close();
    else if (ev.key === "Enter" && !opener && shown.length) open([shown[here]]);
    else if (ev.key === "c") choose(opener ? opener[0] : shown[here]);
    else if (ev.key === "v" && chosen.length === 2) open(chosen);
    else if (ev.key === "/") $("search").focus();
    else return;
    ev.preventDefault();
  };

  // "#i=12", "#c=3,7", and filters "#f=COLUMN=VALUE"
  const follow = () => {
    const m = /^#([icf])=(.*)$/.exec(location.hash);
    if (!m) return;
    if (m[1] === "f") {
      const [name, ...rest] = decodeURIComponent(m[2]).split("="), c = column(name), f = c && filters.get(c);
      if (!f) return;
      for (const [input, code] of f.inputs)
        if (code !== undefined && String(c.values ? c.values[code] : code) === rest.join("=")) { input.checked = true; f.set.add(code); }
      update();
      return;
    }
    const rows = m[2].split(",").map(v => run.index.indexOf(Number(v))).filter(r => r >= 0).slice(0, 2);
    if (m[1] === "c" && rows.length === 2) chosen = rows;
    $("compare").disabled = chosen.length < 2;
    if (rows.length) { here = Math.max(0, shown.indexOf(rows[0])); open(rows); }
  };
  return {
    start(index) {
      run = index;
      document.title = run.name;
      $("name").textContent = run.name;
      cell = Math.min(320, Math.max(48, run.thumb.side));
      $("zoom").value = cell;
      for (const c of run.columns) {
        const o = make("option", c.name);
        o.value = c.name;
        $("sort").append(o);
        if (c.name !== "index") addFilter(c);
      }
      $("sort").onchange = update;
      $("direction").onclick = () => { up = !up; $("direction").textContent = up ? "\u2191" : "\u2193"; update(); };
      $("search").oninput = update;
      $("zoom").oninput = () => { cell = Number($("zoom").value); draw(true); };
      $("clear").onclick = clear;
      $("compare").onclick = () => open(chosen);
      $("viewer").querySelector(".close").onclick = close;
      $("grid").onscroll = () => draw();
      window.onresize = () => draw(true);
      window.onhashchange = follow;
      document.addEventListener("keydown", key);
      update();
      follow();
    },
    records(k, list) {
      records.set(k, list);
      for (const f of waiting.get(k) || []) f(list);
      waiting.delete(k);
    },
  };
})();
