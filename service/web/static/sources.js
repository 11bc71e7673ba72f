// Image sources: drag and drop, clipboard, file dialog. The camera is in camera.js.
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

  byId("choose").disabled = false; // disabled until the listeners exist
}
