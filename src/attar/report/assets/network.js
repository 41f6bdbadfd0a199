// Runs the compressed network on one image: an interpreter of the steps that attar/report/program.py writes down.
// Tensors are flat Float32Arrays; a step carries all shapes that it needs. Sums are made in float64.
"use strict";
const attarNetwork = (() => {
  const erf = x => { // Abramowitz and Stegun 7.1.26: within 1.5e-7
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const y = 1 - ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t * Math.exp(-x * x);
    return x < 0 ? -y : y;
  };
  const sigmoid = x => 1 / (1 + Math.exp(-x));
  const softplus = x => x > 20 ? x : Math.log1p(Math.exp(x));
  const clip = (x, low, high) => x < low ? low : x > high ? high : x;
  const UNARY = {
    relu: x => x > 0 ? x : 0, relu6: x => clip(x, 0, 6), sigmoid, tanh: Math.tanh, silu: x => x * sigmoid(x),
    hardswish: x => x * clip(x + 3, 0, 6) / 6, hardsigmoid: x => clip(x + 3, 0, 6) / 6, clamp: clip,
    exp: Math.exp, sqrt: Math.sqrt, rsqrt: x => 1 / Math.sqrt(x), neg: x => -x, abs: Math.abs, erf, softplus,
    sin: Math.sin, cos: Math.cos, log: Math.log,
    mish: x => x * Math.tanh(softplus(x)), leaky_relu: (x, slope) => x > 0 ? x : slope * x,
    elu: (x, alpha) => x > 0 ? x : alpha * Math.expm1(x), pow: (x, exponent) => Math.pow(x, exponent),
    gelu: x => 0.5 * x * (1 + erf(x * Math.SQRT1_2)),
    gelu_tanh: x => 0.5 * x * (1 + Math.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))),
  };
  const BINARY = {
    add: (a, b) => a + b, sub: (a, b) => a - b, mul: (a, b) => a * b, div: (a, b) => a / b,
    maximum: Math.max, minimum: Math.min, le: (a, b) => +(a <= b), lt: (a, b) => +(a < b), ge: (a, b) => +(a >= b),
    gt: (a, b) => +(a > b), eq: (a, b) => +(a === b), ne: (a, b) => +(a !== b),
  };
  const size = shape => shape.reduce((product, n) => product * n, 1);

  // Calls visit(i, offset a, offset b) for each element of a shape in order; the offsets follow their strides.
  function walk(shape, sa, sb, visit) {
    const n = size(shape), at = new Array(shape.length).fill(0);
    for (let i = 0, a = 0, b = 0; i < n; i++) {
      visit(i, a, b);
      for (let d = shape.length - 1; d >= 0; d--) {
        a += sa[d]; b += sb[d];
        if (++at[d] < shape[d]) break;
        a -= at[d] * sa[d]; b -= at[d] * sb[d]; at[d] = 0;
      }
    }
  }

  const KINDS = {
    conv(s, [x, w, bias], y) {
      const [C, H, W] = s.input, [, O, Ho, Wo] = s.shape, [kh, kw] = s.kernel;
      const [sh, sw] = s.stride, [ph, pw] = s.padding, [dh, dw] = s.dilation;
      const perGroup = C / s.groups, outPerGroup = O / s.groups, sums = new Float64Array(Ho * Wo);
      for (let o = 0; o < O; o++) {
        sums.fill(bias ? bias[o] : 0);
        const first = Math.floor(o / outPerGroup) * perGroup;
        for (let c = 0; c < perGroup; c++) for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
          const weight = w[((o * perGroup + c) * kh + ky) * kw + kx], left = kx * dw - pw;
          const from = Math.max(0, Math.ceil(-left / sw)), to = Math.min(Wo, Math.floor((W - 1 - left) / sw) + 1);
          for (let oy = 0; oy < Ho; oy++) {
            const iy = oy * sh + ky * dh - ph;
            if (iy < 0 || iy >= H) continue;
            const row = ((first + c) * H + iy) * W + left, out = oy * Wo;
            for (let ox = from; ox < to; ox++) sums[out + ox] += weight * x[row + ox * sw];
          }
        }
        y.set(sums, o * Ho * Wo);
      }
    },
    linear(s, [x, w, bias], y) {
      const outputs = s.shape[s.shape.length - 1];
      for (let r = 0; r < s.rows; r++) for (let o = 0; o < outputs; o++) {
        let sum = bias ? bias[o] : 0;
        for (let k = 0; k < s.k; k++) sum += x[r * s.k + k] * w[o * s.k + k];
        y[r * outputs + o] = sum;
      }
    },
    matmul(s, [a, b], y) {
      const sums = new Float64Array(s.n);
      for (let p = 0; p < s.batch; p++) for (let m = 0; m < s.m; m++) {
        sums.fill(0);
        for (let k = 0; k < s.k; k++) {
          const left = a[(p * s.m + m) * s.k + k], row = (p * s.k + k) * s.n;
          for (let n = 0; n < s.n; n++) sums[n] += left * b[row + n];
        }
        y.set(sums, (p * s.m + m) * s.n);
      }
    },
    affine(s, [x, scale, shift], y) {
      for (let i = 0; i < y.length; i++) {
        const c = Math.floor(i / s.inner) % s.channels;
        y[i] = x[i] * scale[c] + shift[c];
      }
    },
    unary(s, [x], y) {
      const f = UNARY[s.f], [p, q] = s.p;
      for (let i = 0; i < y.length; i++) y[i] = f(x[i], p, q);
    },
    binary(s, [a, b], y) {
      const f = BINARY[s.f];
      if (a.length === y.length && b.length === y.length) for (let i = 0; i < y.length; i++) y[i] = f(a[i], b[i]);
      else walk(s.shape, s.sa, s.sb, (i, pa, pb) => { y[i] = f(a[pa], b[pb]); });
    },
    pool(s, [x], y) {
      const [C, H, W] = s.input, [Ho, Wo] = s.shape.slice(-2), [kh, kw] = s.kernel;
      const [sh, sw] = s.stride, [ph, pw] = s.padding, [dh, dw] = s.dilation;
      for (let c = 0, i = 0; c < C; c++) for (let oy = 0; oy < Ho; oy++) for (let ox = 0; ox < Wo; ox++, i++) {
        let best = -Infinity, sum = 0, seen = 0;
        const top = oy * sh - ph, left = ox * sw - pw;
        for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
          const iy = top + ky * dh, ix = left + kx * dw;
          if (iy < 0 || iy >= H || ix < 0 || ix >= W) continue;
          const value = x[(c * H + iy) * W + ix];
          best = Math.max(best, value); sum += value; seen++;
        }
        const padded = (Math.min(top + kh, H + ph) - top) * (Math.min(left + kw, W + pw) - left);
        y[i] = s.f === "max" ? best : sum / (s.divisor || (s.include ? padded : seen));
      }
    },
    adaptive(s, [x], y) {
      const [C, H, W] = s.input, [Ho, Wo] = s.shape.slice(-2);
      for (let c = 0, i = 0; c < C; c++) for (let oy = 0; oy < Ho; oy++) for (let ox = 0; ox < Wo; ox++, i++) {
        const top = Math.floor(oy * H / Ho), bottom = Math.ceil((oy + 1) * H / Ho);
        const left = Math.floor(ox * W / Wo), right = Math.ceil((ox + 1) * W / Wo);
        let sum = 0;
        for (let iy = top; iy < bottom; iy++) for (let ix = left; ix < right; ix++) sum += x[(c * H + iy) * W + ix];
        y[i] = sum / ((bottom - top) * (right - left));
      }
    },
    reduce(s, [x], y) {
      for (let r = 0; r < y.length; r++) {
        let sum = 0, best = -Infinity;
        for (let i = r * s.size; i < (r + 1) * s.size; i++) { sum += x[i]; best = Math.max(best, x[i]); }
        y[r] = s.f === "max" ? best : s.f === "sum" ? sum : sum / s.size;
      }
    },
    softmax(s, [x], y) {
      for (let start = 0; start < y.length; start += s.size) y.set(softmax(x.subarray(start, start + s.size)), start);
    },
    norm(s, [x], y) {
      for (let start = 0; start < y.length; start += s.size) {
        let mean = 0, variance = 0;
        for (let i = start; i < start + s.size; i++) mean += x[i] / s.size;
        for (let i = start; i < start + s.size; i++) variance += (x[i] - mean) ** 2 / s.size;
        const scale = 1 / Math.sqrt(variance + s.eps);
        for (let i = start; i < start + s.size; i++) y[i] = (x[i] - mean) * scale;
      }
    },
    cat(s, parts, y) {
      for (let o = 0, at = 0; o < s.outer; o++) parts.forEach((part, i) => {
        y.set(part.subarray(o * s.blocks[i], (o + 1) * s.blocks[i]), at);
        at += s.blocks[i];
      });
    },
    strided(s, [x], y) {
      walk(s.shape, s.strides, s.strides, (i, a) => { y[i] = x[s.offset + a]; });
    },
    where(s, [condition, a, b], y) {
      for (let i = 0; i < y.length; i++) y[i] = condition[i] ? a[i] : b[i];
    },
    gather(s, [x], y) {
      for (let i = 0; i < y.length; i++) y[i] = s.at[i] < 0 ? 0 : x[s.at[i]];
    },
    place(s, [x], y) {
      y.fill(s.fill);
      walk(s.size, s.strides, s.strides, (i, a) => { y[s.offset + a] = x[i]; });
    },
  };

  function softmax(logits) {
    const top = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = Array.from(logits, x => Math.exp(x - top)), sum = powers.reduce((a, b) => a + b, 0);
    return powers.map(p => p / sum);
  }

  const half = bits => { // float16 to a number
    const exponent = bits >> 10 & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    return sign * (exponent === 0 ? fraction * 2 ** -24 : exponent === 31 ? Infinity : (1 + fraction / 1024) * 2 ** (exponent - 15));
  };

  // A safetensors file -> its tensors by name, as Float32Arrays.
  function tensors(buffer) {
    const length = Number(new DataView(buffer).getBigUint64(0, true)), found = {};
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
    for (const [name, entry] of Object.entries(header)) {
      if (name === "__metadata__") continue;
      const bytes = buffer.slice(8 + length + entry.data_offsets[0], 8 + length + entry.data_offsets[1]);
      if (entry.dtype === "F32") found[name] = new Float32Array(bytes);
      else if (entry.dtype === "F64") found[name] = Float32Array.from(new Float64Array(bytes));
      else if (entry.dtype === "F16") found[name] = Float32Array.from(new Uint16Array(bytes), half);
      else if (entry.dtype === "BF16") found[name] = new Float32Array(Uint32Array.from(new Uint16Array(bytes), bits => bits << 16).buffer);
    }
    return found;
  }

  // What the page says of a network, and the tensors of its weights' file where that is not in the page -> a generator from
  // pixels (Uint8Array C*H*W, 0..255) to logits: it yields after every step the share that is done.
  function open(program, file = {}) {
    const text = atob(program.numbers), bytes = Uint8Array.from(text, c => c.charCodeAt(0)), view = new DataView(bytes.buffer);
    const isHalf = program.precision === "float16", width = isHalf ? 2 : 4;
    let at = 0;
    const constants = program.constants.map(n => {
      if (typeof n === "string") {
        if (!file[n]) throw new Error(`the file has no tensor ${n}`);
        return file[n];
      }
      const tensor = new Float32Array(n);
      for (let i = 0; i < n; i++, at += width) tensor[i] = isHalf ? half(view.getUint16(at, true)) : view.getFloat32(at, true);
      return tensor;
    });
    const [C, H, W] = program.input, plane = H * W;
    return function* (pixels) {
      if (pixels.length !== C * plane) throw new Error(`${pixels.length} pixels in place of ${C * plane}`);
      const image = new Float32Array(C * plane);
      for (let i = 0; i < image.length; i++) {
        const c = Math.floor(i / plane);
        image[i] = Math.fround(pixels[i] - program.shift[c]) * program.scale[c];
      }
      const values = [...constants, image];
      for (const [done, step] of program.steps.entries()) {
        const result = new Float32Array(size(step.shape));
        KINDS[step.kind](step, step.in.map(i => i === null ? null : values[i]), result);
        values[step.out] = result;
        for (const used of step.free) values[used] = null;
        yield (done + 1) / program.steps.length;
      }
      return values[program.output];
    };
  }
  function whole(steps) { // a generator's result, without pausing
    for (;;) { const { done, value } = steps.next(); if (done) return value; }
  }
  return { open, softmax, tensors, whole };
})();
if (typeof module !== "undefined") module.exports = attarNetwork;
