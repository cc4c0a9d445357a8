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

async function segment(file) {
  if (file.size > health.max_mb * 2 ** 20) return say(`${file.name}: larger than ${health.max_mb} MB`, true);
  sending?.abort();
  sending = new AbortController();
  $("download").hidden = true;
  $("views").disabled = true;
  say(`${file.name}: segmenting …`);
  const form = new FormData();
  form.append("file", file);
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
$("file").addEventListener("change", () => $("file").files[0] && segment($("file").files[0]));
$("token").addEventListener("change", () => $("file").files[0] && segment($("file").files[0]));
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
    if (kind === "drop" && event.dataTransfer.files.length) segment(event.dataTransfer.files[0]);
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
