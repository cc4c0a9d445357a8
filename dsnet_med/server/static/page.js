// The page of `dsnet-med serve`: sends a volume, shows the mask over it with NiiVue, offers it for download.
import { Niivue, NVImage, SHOW_RENDER, SLICE_TYPE } from "../niivue.js";

const $ = (id) => document.getElementById(id);
const health = await (await fetch("health")).json();
const viewer = new Niivue({ backColor: [0, 0, 0, 1], show3Dcrosshair: true, dragAndDropEnabled: false });
let sending = null;

$("model").textContent = health.model;
$("locked").hidden = !health.token;
for (const [id, name] of Object.entries(health.labels)) {
  if (id === "0") continue;
  const item = document.createElement("li");
  item.append(document.createElement("i"), name.replaceAll("_", " "));
  item.firstChild.style.background = `rgb(${health.colours[id]})`;
  $("labels").append(item);
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

// The files as parts of a form: one alone as `file`, several as the channels that their names tell, else in order.
function parts(files) {
  if (files.length === 1) return [["file", files[0]]];
  const sorted = [...files].sort((a, b) => a.name.localeCompare(b.name));
  const words = (name) => ` ${name.toLowerCase().split(/[_. -]+/).join(" ")} `;
  const called = (name) => sorted.filter((file) => words(file.name).includes(words(name)));
  const told = health.channels.every((name) => called(name).length === 1);
  return health.channels.map((name, index) => [name, told ? called(name)[0] : sorted[index]]);
}

async function segment(files) {
  const wanted = health.channels.length;
  if (files.length > 1 && files.length !== wanted) return say(`got ${files.length} files, wanted ${wanted}`, true);
  const sent = parts(files);
  const file = sent[0][1];
  const size = sent.reduce((sum, [, each]) => sum + each.size, 0);
  if (size > health.max_mb * 2 ** 20) return say(`${file.name}: larger than ${health.max_mb} MB`, true);
  sending?.abort();
  sending = new AbortController();
  $("download").hidden = true;
  $("views").disabled = true;
  say(`${file.name}: segmenting …`);
  const form = new FormData();
  for (const [name, each] of sent) form.append(name, each);
  const headers = health.token ? { Authorization: `Bearer ${$("token").value}` } : {};
  try {
    const answer = await fetch("segment", { method: "POST", body: form, headers, signal: sending.signal });
    if (!answer.ok) return say(`${file.name}: ${(await answer.json()).error}`, true);
    const notes = JSON.parse(answer.headers.get("X-Notes"));
    const mask = await answer.blob();
    offer(file, mask);
    say([`${file.name}: done`, await show(file, mask), ...notes].filter(Boolean).join("; "));
  } catch (error) {
    if (error.name !== "AbortError") say(`${file.name}: the server does not answer (${error.message})`, true);
  }
}

function offer(file, mask) {
  URL.revokeObjectURL($("download").href);
  $("download").href = URL.createObjectURL(mask);
  $("download").download = `${file.name.replace(/\.(nii|nrrd|mha|zip)?(\.gz)?$/i, "")}_mask.nii.gz`;
  $("download").hidden = false;
}

// Shows the mask over the volume; alone, which is said, where NiiVue cannot read the volume.
async function show(file, mask) {
  const overlay = await NVImage.loadFromFile({ file: new File([mask], "mask.nii.gz"), name: "mask.nii.gz" });
  let image = null;
  try {
    image = await NVImage.loadFromFile({ file, name: file.name });
  } catch { /* a zip */ }
  while (viewer.volumes.length) viewer.removeVolumeByIndex(0);
  if (image) viewer.addVolume(image);
  viewer.addVolume(overlay);
  const ids = Object.keys(health.labels);
  const channel = (index) => ids.map((id) => (id === "0" ? 0 : health.colours[id][index]));
  overlay.setColormapLabel({
    R: channel(0), G: channel(1), B: channel(2), A: ids.map((id) => (id === "0" ? 0 : 255)),
    I: ids.map(Number), labels: ids.map((id) => health.labels[id]),
  });
  viewer.setOpacity(viewer.volumes.length - 1, image ? Number($("opacity").value) : 1);
  viewer.updateGLVolume();
  $("views").disabled = false;
  return image ? "" : "the mask alone is shown: this viewer reads no zip";
}

viewer.opts.multiplanarShowRender = SHOW_RENDER.ALWAYS;
await viewer.attachToCanvas($("canvas"));
viewer.setSliceType(SLICE_TYPE.MULTIPLANAR);
$("form").addEventListener("submit", (event) => event.preventDefault());
$("file").multiple = health.channels.length > 1;
for (const id of ["file", "token"]) {
  $(id).addEventListener("change", () => $("file").files.length && segment([...$("file").files]));
}
$("opacity").addEventListener("input", () => {
  viewer.setOpacity(viewer.volumes.length - 1, Number($("opacity").value));
});
for (const view of document.getElementsByName("view")) {
  view.addEventListener("change", () => viewer.setSliceType(Number(view.value)));
}
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      segment([...event.dataTransfer.files].slice(0, $("file").multiple ? undefined : 1));
    }
  });
}
const MOVES = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowDown: [0, -1, 0], ArrowUp: [0, 1, 0],
  PageDown: [0, 0, -1], PageUp: [0, 0, 1],
};
$("canvas").addEventListener("keydown", (event) => {
  const move = MOVES[event.key];
  if (!move || !viewer.volumes.length) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  const { renderAzimuth, renderElevation } = viewer.scene;
  if (event.shiftKey) viewer.setRenderAzimuthElevation(renderAzimuth + 10 * move[0], renderElevation + 10 * move[1]);
  else viewer.moveCrosshairInVox(...move);
}, true);
document.body.dataset.ready = "yes";
