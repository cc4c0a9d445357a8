(function () {
  "use strict";
  var looks = JSON.parse(document.getElementById("looks").textContent), volumes = {};

  function bytes(address) {
    var text = atob(address.split(",")[1]), out = new Uint8Array(text.length);
    for (var i = 0; i < text.length; i++) out[i] = text.charCodeAt(i);
    return out;
  }

  async function volume(name) {
    var stack = JSON.parse(document.getElementById(name).textContent), shape = stack.shape;
    var rest = [0, 1, 2].filter(function (axis) { return axis !== stack.plane; });
    var depth = shape[stack.plane], height = shape[rest[0]], width = shape[rest[1]], size = depth * height * width;
    var step = [0, 0, 0];
    step[stack.plane] = height * width; step[rest[0]] = width; step[rest[1]] = 1;
    var inflated = new Blob([bytes(stack.labels)]).stream().pipeThrough(new DecompressionStream("deflate"));
    var labels = new Uint8Array(await new Response(inflated).arrayBuffer()), maps = [], grey = null;
    for (var m = 0; m < stack.maps; m++) maps.push(labels.subarray(m * size, (m + 1) * size));
    if (stack.sheets.length) {
      grey = new Uint8Array(size);
      for (var s = 0; s < stack.sheets.length; s++) await sheet(stack, s, grey, depth, height, width);
    }
    return { stack: stack, shape: shape, step: step, maps: maps, grey: grey };
  }

  async function sheet(stack, number, grey, depth, height, width) {
    var image = new Image();
    image.src = stack.sheets[number];
    await image.decode();
    var canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
    var context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    var pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    var first = number * stack.columns * stack.rows, last = Math.min(depth, first + stack.columns * stack.rows);
    for (var k = first; k < last; k++) {
      var row = Math.floor((k - first) / stack.columns) * stack.tile[0], column = (k - first) % stack.columns * stack.tile[1];
      for (var y = 0; y < height; y++)
        for (var x = 0; x < width; x++)
          grey[(k * height + y) * width + x] = pixels[4 * ((row + y) * canvas.width + column + x)];
    }
  }

  function has(stack, value, number) { return stack.bits ? value >> (number - 1) & 1 : value === number ? 1 : 0; }

  function kind(a, b) {
    return a === b ? 0 : b === 0 ? 1 : a === 0 ? 2 : 3;
  }

  function paint(data, spec, place, canvas, coloured) {
    var axes = [0, 1, 2].filter(function (axis) { return axis !== spec.plane; }), down = axes[0], right = axes[1];
    var height = canvas.height, width = canvas.width, rows = data.shape[down], columns = data.shape[right];
    var base = place[spec.plane] * data.step[spec.plane], up = spec.plane !== 0;
    var show = data.maps[spec.show], against = spec.against === null ? null : data.maps[spec.against];
    var marks = new Uint8Array(height * width), inside = new Uint8Array(height * width);
    var context = canvas.getContext("2d"), picture = context.createImageData(width, height), out = picture.data;
    function row(r) { return base + (up ? rows - 1 - r : r) * data.step[down]; }
    for (var y = 0; y < height; y++) {
      var line = row(Math.floor(y * rows / height));
      var fy = Math.min(Math.max((y + 0.5) * rows / height - 0.5, 0), rows - 1), y0 = Math.floor(fy), wy = fy - y0;
      var above = row(y0), below = row(Math.min(y0 + 1, rows - 1));
      for (var x = 0; x < width; x++) {
        var at = y * width + x, voxel = line + Math.floor(x * columns / width) * data.step[right], value = looks.background;
        var a = against === null ? 0 : against[voxel], b = show[voxel];
        if (against === null) marks[at] = data.stack.bits ? 32 - Math.clz32(b) : b;
        else {
          if (spec.only !== null) { a = has(data.stack, a, spec.only); b = has(data.stack, b, spec.only); }
          marks[at] = kind(a, b);
          inside[at] = a > 0;
        }
        if (data.grey) {
          var fx = Math.min(Math.max((x + 0.5) * columns / width - 0.5, 0), columns - 1), x0 = Math.floor(fx), wx = fx - x0;
          var one = x0 * data.step[right], other = Math.min(x0 + 1, columns - 1) * data.step[right], g = data.grey;
          value = (g[above + one] * (1 - wx) + g[above + other] * wx) * (1 - wy) + (g[below + one] * (1 - wx) + g[below + other] * wx) * wy;
        }
        out[4 * at] = out[4 * at + 1] = out[4 * at + 2] = value;
        out[4 * at + 3] = 255;
      }
    }
    var colours = against === null ? looks.colours : looks.differences;
    function edge(table, y, x) {
      var own = table[y * width + x];
      return (y > 0 && table[(y - 1) * width + x] !== own) || (y < height - 1 && table[(y + 1) * width + x] !== own) ||
        (x > 0 && table[y * width + x - 1] !== own) || (x < width - 1 && table[y * width + x + 1] !== own);
    }
    function set(at, colour, share) {
      for (var c = 0; c < 3; c++) out[4 * at + c] = Math.round((1 - share) * out[4 * at + c] + share * colour[c]);
    }
    if (coloured)
      for (y = 0; y < height; y++)
        for (x = 0; x < width; x++) {
          at = y * width + x;
          if (inside[at] && edge(inside, y, x)) set(at, looks.outline, 1);
          if (marks[at]) set(at, colours[marks[at] - 1], edge(marks, y, x) ? 1 : looks.fill);
        }
    var share = (place[down] + 0.5) / rows, ticked = Math.min(height - 1, Math.floor((up ? 1 - share : share) * height));
    var column = Math.min(width - 1, Math.floor((place[right] + 0.5) / columns * width));
    for (var t = 0; t < 9; t++) {
      if (t < width) { set(ticked * width + t, looks.tick, 1); set(ticked * width + width - 1 - t, looks.tick, 1); }
      if (t < height) { set(t * width + column, looks.tick, 1); set((height - 1 - t) * width + column, looks.tick, 1); }
    }
    context.putImageData(picture, 0, 0);
  }

  function open(viewer, data) {
    var stack = data.stack, panels = [], coloured = true, due = false;
    var place = viewer.dataset.place.split(",").map(function (text, axis) {
      return Math.min(data.shape[axis] - 1, Math.floor((Number(text) + 0.5) * data.shape[axis] / stack.full[axis]));
    });
    var controls = viewer.querySelector(".sliders"), sliders = controls.querySelectorAll("input[type=range]");

    function words(axis) {
      var full = stack.start[axis] + Math.floor((place[axis] + 0.5) * stack.full[axis] / data.shape[axis]);
      return "slice " + (full + 1) + " of " + stack.whole[axis];
    }
    function draw() {
      due = false;
      panels.forEach(function (panel) { paint(data, panel.spec, place, panel.canvas, coloured); });
      sliders.forEach(function (slider) {
        slider.value = place[slider.dataset.plane];
        slider.parentNode.querySelector("output").textContent = words(Number(slider.dataset.plane));
      });
    }
    function move(axis, to) {
      place[axis] = Math.min(Math.max(to, 0), data.shape[axis] - 1);
      if (!due) { due = true; requestAnimationFrame(draw); }
    }
    viewer.querySelectorAll("img[data-panel]").forEach(function (image) {
      var canvas = document.createElement("canvas"), spec = JSON.parse(image.dataset.panel);
      canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", image.alt);
      canvas.addEventListener("pointerdown", function (event) {
        var box = canvas.getBoundingClientRect(), scale = Math.min(box.width / canvas.width, box.height / canvas.height);
        var x = (event.clientX - box.left - (box.width - canvas.width * scale) / 2) / (canvas.width * scale);
        var y = (event.clientY - box.top - (box.height - canvas.height * scale) / 2) / (canvas.height * scale);
        if (x < 0 || x >= 1 || y < 0 || y >= 1) return;
        var axes = [0, 1, 2].filter(function (axis) { return axis !== spec.plane; });
        move(axes[0], Math.floor((spec.plane ? 1 - y : y) * data.shape[axes[0]]));
        move(axes[1], Math.floor(x * data.shape[axes[1]]));
      });
      canvas.addEventListener("wheel", function (event) {
        if (document.activeElement !== canvas) return;
        event.preventDefault();
        move(spec.plane, place[spec.plane] + (event.deltaY > 0 ? -1 : 1));
      }, { passive: false });
      canvas.addEventListener("keydown", function (event) {
        var by = { ArrowUp: 1, ArrowRight: 1, PageUp: 10, ArrowDown: -1, ArrowLeft: -1, PageDown: -10 }[event.key];
        if (!by) return;
        event.preventDefault();
        move(spec.plane, place[spec.plane] + by);
      });
      image.replaceWith(canvas);
      panels.push({ canvas: canvas, spec: spec });
    });
    sliders.forEach(function (slider) {
      var axis = Number(slider.dataset.plane);
      slider.max = data.shape[axis] - 1;
      slider.addEventListener("input", function () { move(axis, Number(slider.value)); });
    });
    controls.querySelector("input[type=checkbox]").addEventListener("change", function (event) {
      coloured = event.target.checked;
      draw();
    });
    controls.hidden = false;
    draw();
    viewer.dataset.open = "yes";
  }

  var seen = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      var viewer = entry.target, name = viewer.dataset.stack;
      if (!entry.isIntersecting) return;
      seen.unobserve(viewer);
      volumes[name] = volumes[name] || volume(name);
      /* What a browser cannot read stays as it is: pictures. */
      volumes[name].then(function (data) { open(viewer, data); }, function () {});
    });
  }, { rootMargin: "300px" });
  document.querySelectorAll(".viewer[data-stack]").forEach(function (viewer) { seen.observe(viewer); });
})();
