// BLAKE2b with 64 bytes and no key (RFC 7693), which minisign signs and browsers do not have.
// A word of 64 bits is two of 32, the lower one first: BigInt is several times as slow.

const START = [
  0xf3bcc908, 0x6a09e667, 0x84caa73b, 0xbb67ae85,
  0xfe94f82b, 0x3c6ef372, 0x5f1d36f1, 0xa54ff53a,
  0xade682d1, 0x510e527f, 0x2b3e6c1f, 0x9b05688c,
  0xfb41bd6b, 0x1f83d9ab, 0x137e2179, 0x5be0cd19,
]; // section 2.6
const ORDERS = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
  [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
  [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
  [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
  [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
]; // section 2.7: in which order each round takes the words of a block
const QUARTERS = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
].map((words) => words.map((word) => 2 * word)); // section 3.2: columns, then diagonals
const [ROUNDS, BLOCK_BYTES, DIGEST_BYTES] = [12, 128, 64];

/** Return the 64 bytes of BLAKE2b-512 of `bytes`. */
export function blake2b512(bytes) {
  const state = Uint32Array.from(START);
  state[0] ^= 0x01010000 ^ DIGEST_BYTES;
  const blocks = Math.max(1, Math.ceil(bytes.length / BLOCK_BYTES));
  for (let index = 0; index < blocks; index += 1) {
    const block = new Uint8Array(BLOCK_BYTES); // zeros behind the end
    block.set(bytes.subarray(index * BLOCK_BYTES, (index + 1) * BLOCK_BYTES));
    const isLast = index === blocks - 1;
    compress(state, block, isLast ? bytes.length : (index + 1) * BLOCK_BYTES, isLast);
  }
  const digest = new DataView(new ArrayBuffer(DIGEST_BYTES));
  state.forEach((word, index) => digest.setUint32(4 * index, word, true));
  return new Uint8Array(digest.buffer);
}

/** Mix one block into the state (section 3.2); `count` are the bytes up to its end. */
function compress(state, block, count, isLast) {
  const view = new DataView(block.buffer);
  const words = Uint32Array.from({ length: 32 }, (_, index) => view.getUint32(4 * index, true));
  const mixed = Uint32Array.from([...state, ...START]);
  mixed[24] ^= count; // of which ^ takes the lower 32 bits
  mixed[25] ^= Math.floor(count / 2 ** 32);
  if (isLast) for (const place of [28, 29]) mixed[place] = ~mixed[place];
  for (let round = 0; round < ROUNDS; round += 1) {
    const order = ORDERS[round % ORDERS.length];
    for (let index = 0; index < QUARTERS.length; index += 1)
      mix(mixed, QUARTERS[index], words, 2 * order[2 * index], 2 * order[2 * index + 1]);
  }
  for (let index = 0; index < 16; index += 1) state[index] ^= mixed[index] ^ mixed[index + 16];
}

/** Section 3.1: mix four words of `v` with the words of the block at `x` and `y`. */
function mix(v, [a, b, c, d], words, x, y) {
  add(v, a, v, b);
  add(v, a, words, x);
  turn(v, d, a, 32);
  add(v, c, v, d);
  turn(v, b, c, 24);
  add(v, a, v, b);
  add(v, a, words, y);
  turn(v, d, a, 16);
  add(v, c, v, d);
  turn(v, b, c, 63);
}

/** Add a word of `from` to one of `v`; what is too large for 32 bits, the array cuts off. */
function add(v, place, from, other) {
  const low = v[place] + from[other];
  v[place + 1] += from[other + 1] + (low >= 2 ** 32 ? 1 : 0);
  v[place] = low;
}

/** Combine a word with another by exclusive or, and turn it to the right. */
function turn(v, place, other, bits) {
  let [low, high] = [v[place] ^ v[other], v[place + 1] ^ v[other + 1]];
  if (bits >= 32) [low, high] = [high, low];
  const rest = bits % 32;
  v[place] = rest ? (low >>> rest) | (high << (32 - rest)) : low;
  v[place + 1] = rest ? (high >>> rest) | (low << (32 - rest)) : high;
}
