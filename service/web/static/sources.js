// Image sources: drag and drop, clipboard, file dialog, camera.
import { byId } from "./dom.js";

// `take(blob, name)` is called with each image, `refuse(message)` with each error.
export function listen(take, refuse) {
  const drop = byId("drop");
  const file = byId("file");

  const takeFirst = (files, otherwise) => {
    if (files.length) take(files[0], files[0].name);
    else if (otherwise) refuse(otherwise);
  };

  byId("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    takeFirst(file.files);
    file.value = ""; // so that choosing the same file again fires `change`
  });

  // on the whole page: the browser would open a file dropped beside the field
  addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    takeFirst(event.dataTransfer.files, "Only files can be dropped. Save the image first, then drop the file.");
  });

  addEventListener("paste", (event) => {
    if (event.target.matches?.("input:not([type=file]), textarea")) return;
    takeFirst(event.clipboardData.files, "The clipboard has no image.");
  });

  camera(take, refuse);
  // disabled until the listeners exist
  byId("choose").disabled = false;
  byId("camera").disabled = false;
}

function camera(take, refuse) {
  const finder = byId("viewfinder");
  const video = byId("video");
  const open = byId("camera");
  const shoot = byId("shoot");
  let stream = null;

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
    shoot.disabled = false; // the video has a frame now
    shoot.focus();
  });

  shoot.addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => blob && take(blob, "camera.jpg"), "image/jpeg", 0.92);
  });

  byId("stop").addEventListener("click", () => {
    for (const track of stream.getTracks()) track.stop();
    video.srcObject = null;
    finder.hidden = true;
    shoot.disabled = true;
    open.disabled = false;
    open.focus();
  });
}
