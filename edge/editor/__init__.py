"""Node-RED's flow editor on this gateway: `edge.editor.app.Editor` is all of it; the rest are its parts."""
