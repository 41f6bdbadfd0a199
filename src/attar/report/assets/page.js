// The report's page: draws the plots and lets the reader run the network. Data are texts, never markup.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const $ = id => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const percent = (share, digits = 2) => share === null || share === undefined ? "–" : (100 * share).toFixed(digits) + " %";
  const thousands = n => n.toLocaleString("en-US");
  const short = n => n >= 1e9 ? +(n / 1e9).toPrecision(3) + "G" : n >= 1e6 ? +(n / 1e6).toPrecision(3) + "M" : n >= 1e3 ? +(n / 1e3).toPrecision(3) + "k" : +n.toPrecision(3) + "";

  function node(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name === "style") made.style.cssText = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }
  function shape(tag, attributes = {}, text = "") {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text) made.textContent = text;
    return made;
  }
  function bar(name, share, text, color = "var(--blue)") {
    const inner = node("i", { style: `width:${Math.max(0, Math.min(1, share)) * 100}%;background:${color}` });
    return node("div", { class: "bar" }, node("span", {}, name), node("i", {}, inner), node("span", {}, text));
  }
  function ticks(low, high, wanted) { // round numbers between two ends
    const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map(f => f * power).find(s => s >= rough), found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
    return found;
  }

  // Lines and points over two axes. series: {name, color, points: [[x, y, index]], line, hollow}; x may run backwards.
  function plot(place, { series, label, xText, yText, backwards, limit, pick, height = 240, zero, log }) {
    const width = Math.max(300, Math.min(960, place.clientWidth || 560)), left = 52, right = 12, top = 10, bottom = 40;
    const all = series.flatMap(s => s.points), xs = all.map(p => p[0]), ys = all.map(p => p[1]);
    if (limit) xs.push(limit);
    let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
    if (x0 === x1) { x0 -= 1; x1 += 1; }
    const spare = (y1 - y0 || Math.abs(y1) * .1 || 1) * .06, logs = log && y0 > 0 && y1 / y0 > 20;
    if (logs) { y0 /= 1.15; y1 *= 1.15; } else { y0 = zero ? Math.min(0, y0) : y0 - spare; y1 += spare; }
    const margin = (x1 - x0) * .03;
    x0 -= margin; x1 += margin;
    const X = x => { const t = (x - x0) / (x1 - x0); return left + (backwards ? 1 - t : t) * (width - left - right); };
    const scale = y => logs ? Math.log(y / y0) / Math.log(y1 / y0) : (y - y0) / (y1 - y0);
    const Y = y => top + (1 - scale(y)) * (height - top - bottom);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
    const marks = logs ? [1, 2, 5].flatMap(f => [...Array(13)].map((_, i) => f * 10 ** (i - 6))).filter(y => y > y0 && y < y1) : ticks(y0, y1, 5);
    for (const y of marks) {
      svg.append(shape("line", { class: "axis", x1: left, x2: width - right, y1: Y(y), y2: Y(y) }));
      svg.append(shape("text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, yText(y)));
    }
    for (const x of ticks(x0, x1, 6)) svg.append(shape("text", { x: X(x), y: height - bottom + 17, "text-anchor": "middle" }, xText(x)));
    svg.append(shape("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, label));
    if (limit) {
      svg.append(shape("line", { class: "limit", x1: X(limit), x2: X(limit), y1: top, y2: height - bottom }));
      const near = X(limit) > width / 2;
      svg.append(shape("text", { x: X(limit) + (near ? -5 : 5), y: height - bottom - 6, "text-anchor": near ? "end" : "start" }, "budget"));
    }
    const dots = [];
    for (const s of series) {
      if (s.line) svg.append(shape("polyline", { class: "line", stroke: s.color, points: s.points.map(p => `${X(p[0])},${Y(p[1])}`).join(" ") }));
      if (!s.dots) continue;
      for (const [x, y, index] of s.points) {
        const dot = shape("circle", { cx: X(x), cy: Y(y), r: 4, fill: s.hollow ? "var(--back)" : s.color, stroke: s.color, "stroke-width": 1.5 });
        dots.push([index, dot, s]);
        svg.append(dot);
      }
    }
    if (pick) {
      const nearest = event => {
        const box = svg.getBoundingClientRect(), x = (event.clientX - box.left) * width / box.width, y = (event.clientY - box.top) * height / box.height;
        const far = p => Math.hypot(X(p[0]) - x, .35 * (Y(p[1]) - y));
        return all.reduce((best, p) => far(p) < far(best) ? p : best)[2];
      };
      svg.addEventListener("pointermove", event => { if (event.pointerType === "mouse") pick(nearest(event)); });
      svg.addEventListener("pointerdown", event => pick(nearest(event)));
      svg.setAttribute("tabindex", 0);
      svg.addEventListener("keydown", event => {
        const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (move) { event.preventDefault(); pick(move, true); }
      });
    }
    const legend = node("div", { class: "legend" }, ...series.map(s => node("span", {}, node("i", { style: `background:${s.color}` }), s.name)));
    place.append(svg, ...(series.length > 1 ? [legend] : []));
    return chosen => dots.forEach(([index, dot, s]) => {
      dot.setAttribute("r", index === chosen ? 7 : 4);
      dot.setAttribute("fill", index === chosen || !s.hollow ? s.color : "var(--back)");
    });
  }

  function frontier() {
    const { groups, steps, budget } = page.frontier;
    if (!$("frontier-plot") || steps.length < 2) return;
    const costs = { params: "parameters", macs: "MACs of one image", bytes: "bytes of the weights" };
    const measured = steps.some(s => s.after !== null), cut = steps.some(s => s.before !== null);
    let kind = Object.keys(budget).find(k => k in costs) || "params", chosen = steps.length - 1, before = false, mark = () => {};
    const buttons = Object.keys(costs).filter(k => steps[0].cost[k]).map(k => node("button", { type: "button", onclick: () => { kind = k; draw(); } }, costs[k]));
    const box = node("input", { type: "checkbox", onchange: () => { before = box.checked; draw(); } });
    $("frontier-controls").append(...buttons, ...(measured && cut ? [node("label", {}, box, " right after each cut, too")] : []));

    function draw() {
      buttons.forEach(b => b.setAttribute("aria-pressed", b.textContent === costs[kind]));
      $("frontier-plot").replaceChildren();
      const points = key => steps.map((s, i) => [s.cost[kind], s[key], i]).filter(p => p[1] !== null);
      const series = measured
        ? [...(before ? [{ name: "right after the cut", color: "var(--orange)", points: points("before"), dots: true, hollow: true }] : []),
          { name: "after fine-tuning", color: "var(--blue)", points: points("after"), line: true, dots: true }]
        : [{ name: costs[kind], color: "var(--blue)", points: steps.map((s, i) => [s.step, s.cost[kind], i]), line: true, dots: true }];
      mark = plot($("frontier-plot"), {
        series, pick, backwards: measured, height: 300, zero: !measured,
        label: measured ? `${costs[kind]} (held-out accuracy above)` : `step (${costs[kind]} above; no images were held out)`,
        xText: measured ? short : String, yText: measured ? y => (100 * y).toFixed(Math.abs(y * 100 % 1) > .01 ? 1 : 0) + " %" : short,
        limit: measured ? budget[kind] : null,
      });
      mark(chosen);
    }
    function pick(step, relative) {
      const next = relative ? Math.max(0, Math.min(steps.length - 1, chosen + step)) : step;
      if (next !== chosen) { chosen = next; mark(chosen); tell(); }
    }
    function tell() {
      const s = steps[chosen], parts = [`${thousands(s.cost.params)} parameters`, `${thousands(s.cost.macs)} MACs`];
      if (s.after !== null) parts.push(`held-out ${s.before === null ? "" : percent(s.before) + " → "}${percent(s.after)}`);
      if (s.removed !== null) parts.push(`${s.removed} units cut`);
      if (s.proof !== null) parts.push(`proof ${s.proof ? s.proof.toExponential(1) : "exact"}`);
      $("frontier-step").replaceChildren(node("b", {}, `Step ${s.step} of ${steps.length - 1}`), ": " + parts.join(", "));
      const most = Math.max(...steps[0].widths, 1);
      $("widths").replaceChildren(...groups.map((group, i) => {
        const start = steps[0].widths[i], row = bar(group.replace(/\.weight$/, ""), s.widths[i] / most, `${s.widths[i]} of ${start}`);
        row.children[1].style.width = `${100 * start / most}%`;
        row.children[1].firstChild.style.width = `${100 * s.widths[i] / start}%`;
        return row;
      }));
    }
    draw();
    tell();
  }

  function curves() {
    for (const stage of page.curves) {
      const name = { teach: "Teaching the teacher", distil: "Distilling", prune: "Pruning and fine-tuning" }[stage.stage] || stage.stage;
      const column = key => stage.images.map((x, i) => [x, stage[key][i]]).filter(p => typeof p[1] === "number");
      const accuracy = [
        { name: "training views", color: "var(--orange)", points: column("accuracy"), line: true },
        { name: "held-out images", color: "var(--blue)", points: column("held_out"), line: true },
      ].filter(s => s.points.length > 1);
      const loss = [{ name: "loss", color: "var(--orange)", points: column("loss"), line: true }].filter(s => s.points.length > 1);
      for (const [title, series, yText] of [["accuracy", accuracy, y => Math.round(100 * y) + " %"], ["loss", loss, y => +y.toPrecision(3) + ""]]) {
        if (!series.length) continue;
        const place = node("div", {}, node("h3", {}, `${name}: ${title}`));
        $("curves").append(place);
        plot(place, { series, label: "images seen", xText: short, yText, height: 220, log: title === "loss" });
      }
    }
  }

  // The network.
  const load = source => new Promise((done, failed) => {
    const picture = new Image();
    picture.onload = () => done(picture);
    picture.onerror = () => failed(new Error("the browser knows no such image"));
    picture.src = source;
  });
  async function pixels(source, own) { // what an image is to the network: Uint8Array (C, H, W), cut in the middle
    const [C, H, W] = page.program.input;
    const picture = await load(source);
    let canvas = picture, [w, h] = [picture.naturalWidth, picture.naturalHeight];
    const draw = (from, width, height, ...part) => {
      const made = node("canvas", { width, height }), context = made.getContext("2d", { willReadFrequently: true });
      if (own) { context.fillStyle = "#fff"; context.fillRect(0, 0, width, height); }
      context.imageSmoothingQuality = "high";
      context.drawImage(from, ...part, 0, 0, width, height);
      return made;
    };
    while (own && w > 2 * W && h > 2 * H) { // by halves, so that every pixel counts
      canvas = draw(canvas, Math.ceil(w / 2), Math.ceil(h / 2), 0, 0, w, h);
      [w, h] = [canvas.width, canvas.height];
    }
    const scale = Math.max(W / w, H / h), part = [(w - W / scale) / 2, (h - H / scale) / 2, W / scale, H / scale];
    const rgba = draw(canvas, W, H, ...part).getContext("2d").getImageData(0, 0, W, H).data, found = new Uint8Array(C * H * W);
    const swap = own && $("swap").checked ? 255 : 0;
    for (let i = 0; i < H * W; i++) {
      const [r, g, b] = rgba.subarray(4 * i, 4 * i + 3);
      if (C === 1) found[i] = own ? Math.round(.299 * r + .587 * g + .114 * b) ^ swap : r;
      else for (let c = 0; c < 3; c++) found[c * H * W + i] = rgba[4 * i + c] ^ swap;
    }
    return found;
  }
  function show(image) { // draws what the network sees
    const [C, H, W] = page.program.input, canvas = $("seen"), context = canvas.getContext("2d");
    canvas.width = W; canvas.height = H;
    const data = context.createImageData(W, H);
    for (let i = 0; i < H * W; i++) {
      for (let c = 0; c < 3; c++) data.data[4 * i + c] = image[(C === 3 ? c : 0) * H * W + i];
      data.data[4 * i + 3] = 255;
    }
    context.putImageData(data, 0, 0);
  }
  const png = sample => `data:image/png;base64,${sample.png}`;

  const pause = (time = 0) => new Promise(resolve => setTimeout(resolve, time));
  const name = i => page.classes[i] ?? String(i);

  async function trial() {
    if (!page.program) return;
    const pick = $("trials"), drop = $("drop"), state = $("weights-state");
    let network = null, shown = null, turn = 0, busy = false, dropped = null;
    // Runs the network, pausing so that the page stays alive; null once it is not wanted any more.
    async function compute(image, wanted = () => true, tell = () => {}) {
      const steps = network(image);
      for (let since = performance.now(), spent = 0;;) {
        const { done, value } = steps.next(), now = performance.now();
        if (done) return { logits: value, time: spent + now - since };
        if (now - since < 40) continue;
        spent += now - since;
        tell(value);
        await pause();
        if (!wanted()) return null;
        since = performance.now();
      }
    }
    async function answer(image, sample) {
      shown = () => answer(image, sample);
      show(image);
      const mine = ++turn;
      if (!network) return $("answer").replaceChildren(node("p", { class: "note" }, "The network cannot run before it has its weights: choose the file above."));
      busy = true;
      const found = await compute(image, () => mine === turn, share => $("answer").replaceChildren(bar("computing", share, percent(share, 0), "var(--soft)")));
      if (!found) return;
      busy = false;
      const { logits, time } = found, chances = attarNetwork.softmax(logits);
      const order = chances.map((_, i) => i).sort((a, b) => chances[b] - chances[a]).slice(0, 5);
      const facts = [`computed here in ${time < 10 ? time.toFixed(1) : Math.round(time)} ms`];
      if (sample) {
        facts.unshift(`it is: ${name(sample.label)}`);
        if (sample.teacher !== undefined) facts.splice(1, 0, `the teacher says: ${name(sample.teacher)}` + (sample.teacher_confidence === undefined ? "" : ` (${percent(sample.teacher_confidence, 0)})`));
      }
      $("answer").replaceChildren(...order.map(i => bar(name(i), chances[i], percent(chances[i], 1))), node("p", { class: "note" }, facts.join("; ")));
    }
    const problem = error => $("answer").replaceChildren(node("p", { class: "bad" }, `This image cannot be read: ${error.message}`));
    const press = chosen => buttons.forEach(b => b.setAttribute("aria-pressed", b === chosen));
    const buttons = page.trials.map(sample => node("button", {
      type: "button", title: `test image ${sample.index}: ${name(sample.label)}`, "aria-pressed": false,
      onclick: event => { press(event.currentTarget); pixels(png(sample)).then(image => answer(image, sample)).catch(problem); },
    }, node("img", { src: png(sample), alt: `test image ${sample.index}` })));
    pick.append(...buttons);
    const own = file => {
      const address = URL.createObjectURL(dropped = file);
      press(null);
      pixels(address, true).then(image => answer(image)).catch(problem).finally(() => URL.revokeObjectURL(address));
    };
    const takes = (place, input, take) => {
      input.addEventListener("change", event => { if (event.target.files[0]) take(event.target.files[0]); });
      for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) place.addEventListener(kind, event => {
        event.preventDefault();
        place.classList.toggle("over", over);
        if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
      });
    };
    takes(drop, $("file"), own);
    $("swap").addEventListener("change", () => { if (dropped) own(dropped); });
    async function opened(tensors) {
      network = attarNetwork.open(page.program, tensors);
      if (shown) shown();
      await check();
    }
    async function weights(file) { // of a network that is too large for the page
      const wanted = page.program.file;
      state.className = "";
      try {
        state.textContent = " is being read …";
        const content = await file.arrayBuffer();
        if (content.byteLength !== wanted.bytes) throw new Error(`${file.name} has ${thousands(content.byteLength)} bytes in place of ${thousands(wanted.bytes)}`);
        if (crypto.subtle) { // where the browser has it
          const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", content))].map(b => b.toString(16).padStart(2, "0")).join("");
          if (digest !== wanted.sha256) throw new Error(`the SHA-256 of ${file.name} differs`);
        }
        await opened(attarNetwork.tensors(content));
        state.textContent = ": read";
      } catch (error) {
        state.textContent = `: this is not the file that this page was made with (${error.message})`;
        state.className = "bad";
      }
    }
    // The page's own proof: the same logits as PyTorch.
    async function check() {
      const samples = page.trials.slice(0, page.program.file ? 3 : 12), exact = page.program.precision === "float32";
      let gap = 0, scale = 1e-6, same = 0;
      const best = values => values.indexOf(Math.max(...values));
      $("check").className = "note";
      for (const [i, sample] of samples.entries()) {
        $("check").textContent = `Checking the network against PyTorch: image ${i + 1} of ${samples.length} …`;
        while (busy) await pause(50); // the reader comes first
        const found = Array.from((await compute(await pixels(png(sample)))).logits);
        sample.logits.forEach((wanted, i) => { gap = Math.max(gap, Math.abs(wanted - found[i])); scale = Math.max(scale, Math.abs(wanted)); });
        same += best(found) === best(sample.logits);
        await pause();
      }
      const good = gap / scale < (exact ? 1e-3 : 2e-2), weights = exact ? "" : " (the page's weights are float16)";
      $("check").textContent = good
        ? `Checked on loading: on ${samples.length} test images the logits computed here are within ${(gap / scale).toExponential(0)} of PyTorch's, relative to the largest${weights}; same class on ${same}.`
        : `Careful: on ${samples.length} test images the logits computed here differ from PyTorch's by up to ${percent(gap / scale)} of the largest; same class on ${same}. This browser changes pixels or numbers; do not trust the answers above.`;
      $("check").className = good ? "note" : "bad";
      $("check").dataset.gap = gap / scale;
      $("check").dataset.same = `${same}/${samples.length}`;
    }
    if (buttons.length) buttons[0].click();
    if (page.program.file) takes($("weights"), $("weights-file"), weights);
    else await opened({});
  }
  frontier();
  curves();
  trial();
})();
