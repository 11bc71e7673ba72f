// Camera: takes a photo, or has frames analysed one after the other, as fast as answers come.
import { Problem } from "./api.js";
import { byId } from "./dom.js";
import { digits } from "./format.js";

const QUALITY = 0.92; // of JPEG
const WINDOW_MS = 3000; // over which the rate is measured

const finder = byId("viewfinder");
const video = byId("video");
const open = byId("camera");
const shoot = byId("shoot");
const live = byId("live");
let stream = null;
let running = null; // controller of the live run

// `take(blob, name)` is called with each photo, `refuse(message)` with each error, `goLive()` when a live run
// begins, and `analyse(frame, signal)` with each frame: its pixels as `canvas`, and `blob`, a JPEG file.
export function listen({ take, refuse, goLive, analyse }) {
  open.addEventListener("click", async () => {
    if (!navigator.mediaDevices) {
      refuse("This browser allows the camera only for local pages or over HTTPS.");
      return;
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    } catch (error) {
      refuse(
        error.name === "NotAllowedError"
          ? "Camera access denied. Allow it for this page, then try again."
          : "No camera found.",
      );
      return;
    }
    video.srcObject = stream;
    finder.hidden = false;
    open.disabled = true;
    await video.play();
    shoot.disabled = live.disabled = false; // the video has a frame now
    shoot.focus();
  });

  shoot.addEventListener("click", async () => {
    try {
      const { blob } = await capture();
      take(blob, "camera.jpg");
    } catch (error) {
      refuse(error.message);
    }
  });

  live.addEventListener("click", () => {
    if (isLive()) {
      pause();
      return;
    }
    running = new AbortController();
    live.setAttribute("aria-pressed", "true");
    goLive();
    run(analyse, refuse, running.signal);
  });

  byId("stop").addEventListener("click", () => {
    pause();
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    finder.hidden = true;
    shoot.disabled = live.disabled = true;
    open.disabled = false;
    open.focus();
  });
  open.disabled = false; // disabled until the listeners exist
}

export function isLive() {
  return running !== null;
}

// End the live run, if any.
export function pause() {
  running?.abort();
  running = null;
  live.setAttribute("aria-pressed", "false");
  byId("rate").textContent = "";
}

// Analyse one frame at a time, and none while the page is hidden.
async function run(analyse, refuse, signal) {
  let times = []; // when the latest frames were done, in milliseconds
  try {
    while (!signal.aborted) {
      if (document.hidden) {
        times = [];
        byId("rate").textContent = "Paused while the page is hidden.";
        await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
        continue;
      }
      await nextFrame();
      signal.throwIfAborted();
      await analyse(await capture(), signal);
      signal.throwIfAborted();
      const now = performance.now();
      times = [...times.filter((time) => now - time < WINDOW_MS), now];
      if (times.length > 1) byId("rate").textContent = `${digits(((times.length - 1) * 1000) / (now - times[0]))} images/s`;
    }
  } catch (error) {
    if (error.name === "AbortError") return;
    pause();
    refuse(error instanceof Problem ? error.message : String(error));
  }
}

// Wait for a new frame, so that none is analysed twice.
function nextFrame() {
  return new Promise((resolve) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
  });
}

async function capture() {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
  if (blob === null) throw new Problem("The camera gives no picture.", 0);
  return { canvas, blob };
}
