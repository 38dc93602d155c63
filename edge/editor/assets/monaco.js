// The text editor of the dialogs, four megabytes, is fetched when the flow is there to look at, or a dialog is opened. One that
// needs it before it has come gets the plain one that Node-RED's editor has for that.
(function () {
  "use strict";

  let asked = false;

  function fetchIt() {
    if (asked) return;
    asked = true;
    const script = document.createElement("script");
    script.src = "vendor/monaco/monaco-bootstrap.js";
    document.body.appendChild(script);
  }

  // scripts behind this one make RED
  document.addEventListener("DOMContentLoaded", function () {
    RED.events.on("editor:open", fetchIt);
    RED.events.on("flows:loaded", () => setTimeout(fetchIt, 300)); // the page is drawn first
  });
})();
