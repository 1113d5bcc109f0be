// Lets the search of the site run where its pages are opened from the disk: browsers allow no worker there. This one runs
// its script in a hidden frame. Zensical asks for a file of this name, and would load one from elsewhere.
"use strict";

if (location.protocol === "file:") {
  const inside = `
    postMessage = (message) => parent.postMessage(message, "*");
    importScripts = async (...urls) => {
      for (const src of urls) {
        await new Promise((resolve) => {
          document.body.appendChild(Object.assign(document.createElement("script"), { src, onload: resolve }));
        });
      }
    };`;

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.body.appendChild(Object.assign(document.createElement("iframe"), { hidden: true }));
      const { contentWindow } = this.frame;
      contentWindow.document.open();
      contentWindow.document.write(`<body><script>${inside}</${"script"}><script src="${url}"></${"script"}></body>`);
      contentWindow.document.close();
      this.started = new Promise((resolve) => contentWindow.addEventListener("load", resolve, { once: true }));
      this.receive = ({ data, source }) => {
        if (source === contentWindow) {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          this.onmessage?.(event);
        }
      };
      window.addEventListener("message", this.receive);
    }

    async postMessage(data) {
      await this.started;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data: structuredClone(data) }));
    }

    terminate() {
      window.removeEventListener("message", this.receive);
      this.frame.remove();
    }
  };
}
