// Sends each photograph to the program on its own, and shows what comes back. What is in a file's name, or in an answer,
// goes into the page as text alone (textContent): nothing of it is ever read as HTML.

const find = (selector, within = document) => within.querySelector(selector);
const page = find("main").dataset;
const MOST_BYTES = Number(page.mostBytes), MOST_SHOWN = Number(page.mostShown);
const AT_ONCE = 2; // one travels while another is graded
const TRIES = 4;
const CROWD = 8; // so many photographs of one patient are believed; more, and the names do not tell patients
const GRADES = page.grades.split("|");
const inOrder = new Intl.Collator("en", { numeric: true }).compare;

let queue, entries, refused, places, crowds, taken, total, stop, open = null;
reset();

function reset() {
  stop?.abort();
  stop = new AbortController();
  queue = []; // of {path, file}, not yet sent
  entries = []; // graded, as they came
  refused = 0;
  places = new Map(); // a patient's key, or a photograph's path -> {key, element, entries}
  crowds = new Set(); // keys of patients that are not believed
  taken = new Set(); // paths
  total = 0;
}

// --- photographs come in

function add(files) { // [{path, file}]
  let hidden = 0;
  for (const { path, file } of files.sort((one, other) => inOrder(one.path, other.path))) {
    if (path.split("/").some((part) => part.startsWith(".") || ["__MACOSX", "Thumbs.db", "desktop.ini"].includes(part))) {
      hidden += 1;
      continue;
    }
    total += 1;
    const problem = unfit(path, file);
    if (problem) {
      refuse(path, problem);
    } else {
      taken.add(path);
      queue.push({ path, file });
    }
  }
  if (total) find("#results").hidden = false;
  say(`${files.length - hidden} files added` + (hidden ? `, ${hidden} hidden files left out` : ""));
  progress();
  for (let n = 0; n < AT_ONCE; n += 1) next();
}

function unfit(path, file) {
  if (taken.has(path)) return "a photograph of this name is on the page already; clear the page, or rename one";
  if (taken.size >= MOST_SHOWN) return `the page holds ${MOST_SHOWN} photographs; clear it, or use trainer predict`;
  if (file.size > MOST_BYTES) return `${file.size} bytes, more than the ${MOST_BYTES} allowed`;
  return "";
}

let sending = 0;
async function next() {
  if (sending >= AT_ONCE || !queue.length) return;
  sending += 1;
  const { path, file } = queue.shift(), { signal } = stop;
  const answer = await ask("grade", path, file, signal);
  sending -= 1;
  if (!signal.aborted) {
    if (answer.error) refuse(path, answer.error);
    else show({ ...answer, path, file });
    progress();
  }
  next();
}

async function ask(what, path, file, signal) { // the program's answer; {error} where there is none
  for (let trial = 1; ; trial += 1) {
    try {
      const name = encodeURIComponent(path.toWellFormed?.() ?? path);
      const response = await fetch(`${what}?name=${name}`, { method: "POST", body: file, signal });
      if (response.status === 503 && trial < TRIES) throw new Error("busy");
      const json = response.headers.get("content-type")?.startsWith("application/json");
      return json ? await response.json() : { error: (await response.text()).trim() };
    } catch {
      if (signal.aborted) return { error: "stopped" };
      if (trial === TRIES) return { error: "no answer: the program has ended, or the file has moved" };
      await new Promise((resolve) => setTimeout(resolve, 500 * trial));
    }
  }
}

// --- results

function show(entry) {
  entries.push(entry);
  const card = entry.card = find("#card").content.firstElementChild.cloneNode(true);
  const words = `grade ${entry.grade}, ${entry.grade_name}`;
  const fill = (selector, text) => { find(selector, card).textContent = text; };
  card.classList.add(entry.kind);
  find("img", card).src = entry.picture;
  find("img", card).alt = `${entry.path}, ${words}: show it large`;
  fill(".name", entry.path);
  fill(".headline", entry.headline);
  fill(".grade", `Predicted: ${words}`);
  fill(".why", entry.why);
  entry.probabilities.forEach((share, grade) => find(".grades", card).append(bar(share, grade, entry)));
  for (const note of entry.notes) find(".notes", card).append(element("li", "", note));
  find(".open", card).addEventListener("click", () => enlarge(entry, false));
  find(".explain", card).addEventListener("click", () => enlarge(entry, true));
  find(".explain", card).setAttribute("aria-label", `Heat map of ${entry.path}`);
  const folder = entry.path.slice(0, entry.path.lastIndexOf("/") + 1);
  entry.patientKey = entry.eye ? `${folder}\n${entry.patient}` : "";
  put(entry);
}

function bar(share, grade, entry) {
  const row = element("li", grade === entry.grade ? "predicted" : "");
  const track = element("span", "track"), filled = element("span", "fill");
  filled.style.setProperty("--share", share);
  track.append(filled);
  row.append(element("span", "", GRADES[grade]), track, element("span", "share", entry.percents[grade]));
  return row;
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function put(entry) { // beside the patient's other photographs
  const paired = entry.patientKey && !crowds.has(entry.patientKey);
  const key = paired ? entry.patientKey : entry.path;
  const place = places.get(key) ?? newPlace(key, paired ? `Patient ${entry.patient}` : entry.path, paired);
  const eye = find(`[data-eye="${paired ? entry.eye : ""}"]`, place.element);
  find(".none", eye)?.remove();
  eye.append(entry.card);
  place.entries.push(entry);
  if (paired && place.entries.length > CROWD) {
    crowds.add(key);
    places.delete(key);
    place.element.remove();
    place.entries.forEach(put);
  }
}

function newPlace(key, title, paired) {
  const made = find("#patient").content.firstElementChild.cloneNode(true);
  find("h3", made).textContent = title;
  for (const eye of made.querySelectorAll(".eye")) if (Boolean(eye.dataset.eye) !== Boolean(paired)) eye.remove();
  const place = { key, title, element: made, entries: [] };
  const after = [...places.values()].filter((other) => inOrder(other.title, title) > 0);
  const first = after.reduce((least, other) => (least && inOrder(least.title, other.title) <= 0 ? least : other), null);
  find("#patients").insertBefore(made, first?.element ?? null);
  places.set(key, place);
  return place;
}

function refuse(path, reason) {
  refused += 1;
  find("#refused").hidden = false;
  find("#refused ul").append(element("li", "", `${path}: ${reason}`));
}

function progress() {
  const done = entries.length + refused;
  find("#bar").max = total || 1;
  find("#bar").value = done;
  const human = entries.filter((entry) => entry.defer).length;
  const refer = entries.filter((entry) => entry.referable && !entry.defer).length;
  const words = `${done} of ${total} done: ${entries.length} graded, of which ${refer} to refer and ${human} for `
    + `a person to decide; ${refused} not graded`;
  find("#count").textContent = words;
  find("#save").disabled = done < total || !entries.length;
  if (done === total || done % 25 === 0) say(words); // each photograph would be too much to listen to
}

function say(words) {
  find("#status").textContent = words;
}

// --- the table to take away, as `trainer predict --defer` writes it

function table() {
  let ids = entries.map((entry) => entry.ids[0]); // each level is longer: name, path without suffix, path
  for (const level of [1, 2]) {
    const often = new Map();
    for (const id of ids) often.set(id, (often.get(id) ?? 0) + 1);
    ids = ids.map((id, at) => (often.get(id) > 1 ? entries[at].ids[level] : id));
  }
  const lines = ids.map((id, at) => [id, `${id},${entries[at].row}`]).sort(([one], [other]) => (one < other ? -1 : 1));
  return page.header + lines.map(([, line]) => line).join("");
}

find("#save").addEventListener("click", () => {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([table()], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
});

find("#clear").addEventListener("click", () => {
  reset();
  find("#patients").replaceChildren();
  find("#refused ul").replaceChildren();
  find("#refused").hidden = find("#results").hidden = true;
  say("The page is clear");
  find("#choose-files").focus();
});

// --- one photograph, large

function enlarge(entry, withHeat) {
  open = entry;
  const original = find("#original"), dialog = find("#large");
  find("#large-title").textContent = entry.path;
  const said = [`${entry.headline}.`, `Predicted: grade ${entry.grade}, ${entry.grade_name}.`, entry.why, ...entry.notes];
  find("#large-said").textContent = said.join(" ");
  find("#original-words").textContent = "The photograph as it came.";
  original.alt = `The photograph ${entry.path}`;
  original.onload = () => URL.revokeObjectURL(original.src);
  original.onerror = () => { // TIFF, DICOM: the browser cannot show it
    original.onerror = null;
    original.src = entry.picture;
    find("#original-words").textContent = "The photograph as the network saw it: the browser cannot show the file itself.";
  };
  original.src = URL.createObjectURL(entry.file);
  find("#pictures").classList.remove("two");
  find("#heat").hidden = true;
  find("#heat-words").textContent = "";
  find("#show-heat").hidden = false;
  if (!dialog.open) dialog.showModal();
  if (withHeat || entry.heat) heat();
}

async function heat() {
  const entry = open;
  find("#show-heat").hidden = true;
  find("#heat-words").textContent = "The heat map is being made …";
  entry.heat ??= await ask("explain", entry.path, entry.file, stop.signal);
  if (open !== entry) return;
  find("#heat-words").textContent = entry.heat.error ?? entry.heat.words;
  if (entry.heat.error) {
    entry.heat = undefined;
    find("#show-heat").hidden = false;
    return;
  }
  find("#heat").alt = `Heat map of ${entry.path}`;
  find("#heat").src = entry.heat.heat;
  find("#heat").hidden = false;
  find("#pictures").classList.add("two");
}

function step(by) {
  const cards = [...document.querySelectorAll("#patients .card")];
  const card = cards[cards.indexOf(open.card) + by];
  if (card) enlarge(entries.find((entry) => entry.card === card), false);
}

find("#show-heat").addEventListener("click", heat);
find("#previous").addEventListener("click", () => step(-1));
find("#next").addEventListener("click", () => step(1));
find("#close").addEventListener("click", () => find("#large").close());
find("#large").addEventListener("close", () => { open = null; });
find("#large").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

// --- choosing and dropping

for (const [button, input] of [["#choose-files", "#files"], ["#choose-folder", "#folder"]]) {
  find(button).addEventListener("click", () => find(input).click());
  find(input).addEventListener("change", (event) => {
    add([...event.target.files].map((file) => ({ path: file.webkitRelativePath || file.name, file })));
    event.target.value = ""; // the same choice again is a change again
  });
}

for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => { // anywhere: a drop beside the field must not open the file instead
    event.preventDefault();
    find("#drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
  });
}
document.addEventListener("drop", async (event) => {
  const { items, files } = event.dataTransfer; // gone after the first wait
  const roots = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const plain = [...files].map((file) => ({ path: file.name, file }));
  try {
    add(roots.length ? (await Promise.all(roots.map(below))).flat() : plain);
  } catch {
    say("What was dropped cannot be read");
    find("#results").hidden = false;
    refuse("the drop", "it cannot be read; choose the folder instead");
    progress();
  }
});

async function below(entry) { // every file of a folder
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: entry.fullPath.slice(1), file }];
  }
  const reader = entry.createReader(), found = [];
  for (;;) { // it gives at most 100 at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(below))).flat();
    found.push(...some);
  }
}
