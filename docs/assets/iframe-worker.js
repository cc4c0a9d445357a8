// A page opened from the disk may start no worker: there, the search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.append(this.frame);
      this.frame.contentWindow.postMessage = (data) => this.told(data);
      const script = this.frame.contentDocument.createElement("script");
      script.src = url;
      script.onload = () => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.hand(data));
      };
      this.frame.contentDocument.documentElement.append(script);
    }
    hand(data) { this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })); }
    told(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    }
    postMessage(data) { if (this.ready) this.hand(data); else this.waiting.push(data); }
    terminate() { this.frame.remove(); }
  };
}
