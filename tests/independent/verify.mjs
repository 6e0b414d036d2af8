// Checks the published vectors with implementations that share no code with quipu: multiformats, @ipld/dag-cbor,
// @noble/hashes, @noble/curves. Written from docs/formats/ alone; unaware of how quipu is built.
//
//     node verify.mjs <directory of vectors>
//
// Prints one line a file, and every disagreement; exits with 1 when there is any.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as dagCbor from '@ipld/dag-cbor'
import { ed25519 } from '@noble/curves/ed25519.js'
import { blake3 } from '@noble/hashes/blake3.js'
import { base32 } from 'multiformats/bases/base32'
import { base58btc } from 'multiformats/bases/base58'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const RAW = 0x55
const DAG_CBOR = 0x71
const BLAKE3 = 0x1e
const HEADER = '3401ed01ed011371'
const PAYLOAD = 'ucan/inv@1.0.0-rc.1'
const MAX_RECEIPT_BYTES = 4 << 20
const MAX_NODE_BYTES = 1 << 20
const PART_ENTRIES = 2048

let disagreements = 0
let checks = 0

function check(what, holds) {
  checks += 1
  if (holds) return
  disagreements += 1
  console.log(`DISAGREES: ${what}`)
}

function accepted(what, read) {
  try {
    return read()
  } catch (e) {
    check(`${what}: ${e.message}`, false)
    return undefined
  }
}

function refused(what, read) {
  let taken = true
  try {
    read()
  } catch {
    taken = false
  }
  check(`${what} must be refused`, !taken)
}

function must(holds, why) {
  if (!holds) throw new Error(why)
}

// Bytes -------------------------------------------------------------------------------------------------------

const hex = (bytes) => Buffer.from(bytes).toString('hex')
const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'))
const utf8 = (text) => new TextEncoder().encode(text)
const same = (a, b) => Buffer.compare(a, b) === 0
const idOf = (codec, bytes) => CID.createV1(codec, Digest.create(BLAKE3, blake3(bytes)))

function vectorBytes(item) {
  if (item.repeat) return new Uint8Array(Buffer.alloc(item.repeat.times, Buffer.from(item.repeat.bytes, 'hex')))
  if (item.links) {
    const { from, to } = item.links
    const entries = []
    for (let i = from; i < to; i++) entries.push({ n: String(i).padStart(4, '0'), l: 'x' })
    return dagCbor.encode({ e: entries })
  }
  return unhex(item.bytes)
}

/// DAG-JSON to values.
function fromDagJson(value) {
  if (Array.isArray(value)) return value.map(fromDagJson)
  if (value === null || typeof value !== 'object') return value
  const keys = Object.keys(value)
  if (keys.length === 1 && keys[0] === '/') {
    if (typeof value['/'] === 'string') return CID.parse(value['/'])
    return new Uint8Array(Buffer.from(value['/'].bytes, 'base64'))
  }
  return Object.fromEntries(keys.map((key) => [key, fromDagJson(value[key])]))
}

/// Strict decoding: a cap, then a round trip.
function decode(bytes, limit) {
  must(bytes.length <= limit, 'too large')
  const value = dagCbor.decode(bytes)
  must(same(dagCbor.encode(value), bytes), 'not canonical')
  return value
}

const isMap = (v) =>
  v !== null && typeof v === 'object' && !Array.isArray(v) && !(v instanceof Uint8Array) && CID.asCID(v) === null

/// A map with all of `needed`, and nothing beside them but `allowed`.
function fields(value, needed, allowed = []) {
  must(isMap(value), 'a map is expected')
  for (const key of needed) must(Object.hasOwn(value, key), `\`${key}\` is missing`)
  for (const key of Object.keys(value)) must(needed.includes(key) || allowed.includes(key), `\`${key}\` is unknown`)
}

function link(value, codec) {
  const cid = CID.asCID(value)
  must(cid !== null && cid.version === 1, 'a link is expected')
  must(cid.multihash.code === BLAKE3 && cid.multihash.digest.length === 32, 'a link of BLAKE3-256 is expected')
  must(codec === undefined ? [RAW, DAG_CBOR].includes(cid.code) : cid.code === codec, 'a link of another codec')
}

function count(value) {
  must(Number.isSafeInteger(value) && value >= 0, 'a count within 2^53-1 is expected')
}

const isText = (value) => must(typeof value === 'string', 'text is expected')

// Ids ---------------------------------------------------------------------------------------------------------

function readId(text, kind) {
  if (kind === 'prefix') return must(/^[a-z2-7]{1,59}$/.test(text), 'no beginning of an id')
  const cid = CID.parse(text)
  link(cid, { blob: RAW, tree: DAG_CBOR }[kind])
  must(cid.toString(base32) === text, 'not the canonical text form')
  return cid
}

function readBinaryId(bytes) {
  must(bytes.length === 36, 'ids have 36 bytes')
  const cid = CID.decode(bytes)
  link(cid)
  must(same(cid.bytes, bytes), 'not the canonical binary form')
}

function ids(file) {
  for (const item of file.accept) {
    const bytes = item.counting === undefined ? unhex(item.bytes) : Uint8Array.from({ length: item.counting }, (_, i) => i % 251)
    const cid = idOf(item.codec === 'raw' ? RAW : DAG_CBOR, bytes)
    check(`id of ${item.name} ${item.counting ?? ''}`, cid.toString(base32) === item.cid)
    check(`digest of ${item.name}`, hex(cid.multihash.digest) === item.digest)
    check(`binary form of ${item.name}`, hex(cid.bytes) === item.binary)
    accepted(item.name, () => readId(item.cid))
    accepted(item.name, () => readBinaryId(unhex(item.binary)))
    if (item.block !== undefined) check(`encoding of ${item.name}`, same(dagCbor.encode(fromDagJson(item.block)), bytes))
  }
  for (const item of file.prefixes) {
    const matches = [item.cid, item.cid.slice(7)].some((text) => text.startsWith(item.prefix))
    check(`prefix ${item.prefix} of ${item.cid}`, matches === item.matches)
  }
  for (const item of file.reject) refused(`${item.name} (${item.text})`, () => readId(item.text, item.as))
  for (const item of file.reject_binary) refused(item.name, () => readBinaryId(unhex(item.bytes)))
}

// Trees -------------------------------------------------------------------------------------------------------

function name(text) {
  isText(text)
  must(!['', '.', '..'].includes(text) && !/[/\0]/.test(text) && utf8(text).length <= 255, 'no file name')
}

function target(text) {
  isText(text)
  must(text !== '' && !text.includes('\0') && utf8(text).length <= 4095, 'no target of a link')
}

function inOrder(names) {
  for (let i = 1; i < names.length; i++) must(Buffer.compare(utf8(names[i - 1]), utf8(names[i])) < 0, 'names out of order')
}

function readNode(bytes) {
  const node = decode(bytes, MAX_NODE_BYTES)
  must(isMap(node) && Object.keys(node).length === 1, 'entries or parts are expected')
  if (node.p !== undefined) {
    must(Array.isArray(node.p) && node.p.length >= 2, 'two parts or more')
    node.p.forEach((part) => link(part, DAG_CBOR))
    return node
  }
  must(Array.isArray(node.e) && node.e.length <= PART_ENTRIES, 'entries are expected')
  for (const entry of node.e) {
    must(isMap(entry), 'an entry is a map')
    if (Object.hasOwn(entry, 'f')) {
      fields(entry, ['f', 'n', 's'], ['x'])
      link(entry.f, RAW)
      count(entry.s)
      must(!Object.hasOwn(entry, 'x') || entry.x === true, 'exec is true or not there')
    } else if (Object.hasOwn(entry, 'd')) {
      fields(entry, ['d', 'n'])
      link(entry.d, DAG_CBOR)
    } else {
      fields(entry, ['l', 'n'])
      target(entry.l)
    }
    name(entry.n)
  }
  inOrder(node.e.map((entry) => entry.n))
  return node
}

function joined(parts) {
  must(parts.length >= 2, 'two parts or more')
  parts.forEach(({ e }, i) => {
    const last = i === parts.length - 1
    must(last ? e.length >= 1 : e.length === PART_ENTRIES, 'a part that is not full')
  })
  inOrder(parts.flatMap(({ e }) => e.map((entry) => entry.n)))
}

function wireEntry(entry) {
  if (entry.kind === 'dir') return { n: entry.name, d: CID.parse(entry.cid) }
  if (entry.kind === 'symlink') return { n: entry.name, l: entry.target }
  return { n: entry.name, f: CID.parse(entry.cid), s: entry.size, ...(entry.exec ? { x: true } : {}) }
}

function numbered(total) {
  return Array.from({ length: total }, (_, i) => {
    const n = `f${String(i).padStart(5, '0')}`
    return { n, f: idOf(RAW, utf8(n)), s: n.length }
  })
}

function trees(file) {
  for (const item of file.accept) {
    const entries = item.numbered === undefined ? item.entries.map(wireEntry) : numbered(item.numbered)
    entries.sort((a, b) => Buffer.compare(utf8(a.n), utf8(b.n)))
    const nodes = []
    for (let i = 0; i === 0 || i < entries.length; i += PART_ENTRIES) {
      nodes.push(dagCbor.encode({ e: entries.slice(i, i + PART_ENTRIES) }))
    }
    if (nodes.length > 1) nodes.push(dagCbor.encode({ p: nodes.map((bytes) => idOf(DAG_CBOR, bytes)) }))
    check(`number of nodes of ${item.name}`, nodes.length === item.nodes.length)
    nodes.forEach((bytes, i) => {
      check(`node ${i} of ${item.name}`, idOf(DAG_CBOR, bytes).toString(base32) === item.nodes[i].id)
      check(`bytes of node ${i} of ${item.name}`, (item.nodes[i].bytes ?? hex(bytes)) === hex(bytes))
      accepted(item.name, () => readNode(bytes))
    })
    check(`id of ${item.name}`, item.nodes.at(-1).id === item.id)
    if (nodes.length > 1) accepted(item.name, () => joined(nodes.slice(0, -1).map((bytes) => readNode(bytes))))
  }
  for (const item of file.reject) refused(item.name, () => readNode(vectorBytes(item)))
  for (const item of file.reject_join) {
    const parts = item.parts.map((part) => accepted(item.name, () => readNode(vectorBytes(part))))
    refused(item.name, () => joined(parts))
  }
}

// Receipts ----------------------------------------------------------------------------------------------------

function publicKey(did) {
  isText(did)
  must(did.startsWith('did:key:z'), 'an ed25519 did:key is expected')
  const bytes = base58btc.decode(did.slice('did:key:'.length))
  must(bytes.length === 34 && bytes[0] === 0xed && bytes[1] === 0x01, 'a key of another kind')
  must(base58btc.encode(bytes) === did.slice('did:key:'.length), 'not the canonical form')
  return bytes.slice(2)
}

function innerPath(path) {
  must(utf8(path).length <= 4096, 'a path of at most 4096 bytes')
  path.split('/').forEach(name)
}

function readOk(ok) {
  fields(ok, ['outputs'], ['stdout', 'stderr'])
  must(isMap(ok.outputs), 'outputs are a map')
  for (const [path, artifact] of Object.entries(ok.outputs)) {
    innerPath(path)
    must(isMap(artifact), 'an artifact is a map')
    if (artifact.kind === 'file') {
      fields(artifact, ['kind', 'cid', 'size'], ['exec'])
      link(artifact.cid, RAW)
      count(artifact.size)
      must(!Object.hasOwn(artifact, 'exec') || artifact.exec === true, 'exec is true or not there')
    } else if (artifact.kind === 'dir') {
      fields(artifact, ['kind', 'cid'])
      link(artifact.cid, DAG_CBOR)
    } else {
      must(artifact.kind === 'symlink', 'an artifact of another kind')
      fields(artifact, ['kind', 'target'])
      target(artifact.target)
    }
  }
}

const ERROR_FIELDS = {
  exit: ['code'],
  signal: ['code'],
  timeout: ['code'],
  'out-of-memory': [],
  'missing-output': ['path'],
  'undeclared-output': ['path'],
  'bad-output': ['path', 'why'],
  spawn: ['why'],
  delivered: ['why'],
}

function readError(error) {
  must(isMap(error) && Object.hasOwn(ERROR_FIELDS, error.kind), 'an error of a kind no receipt records')
  const own = ERROR_FIELDS[error.kind]
  fields(error, ['kind', ...own], ['stdout', 'stderr'])
  own.filter((key) => key !== 'code').forEach((key) => isText(error[key]))
  if (error.kind === 'timeout') count(error.code)
  else if (own.includes('code')) must(Number.isInteger(error.code) && error.code === (error.code | 0), 'a 32-bit code')
}

function readReceipt(bytes) {
  const envelope = decode(bytes, MAX_RECEIPT_BYTES)
  must(Array.isArray(envelope) && envelope.length === 2, 'an envelope is a list of two')
  const [signature, signed] = envelope
  must(signature instanceof Uint8Array && signature.length === 64, 'a signature of 64 bytes is expected')
  fields(signed, ['h', PAYLOAD])
  must(signed.h instanceof Uint8Array && hex(signed.h) === HEADER, 'another signature header')
  const payload = signed[PAYLOAD]
  fields(payload, ['iss', 'sub', 'cmd', 'args', 'prf', 'nonce', 'exp', 'iat', 'meta'])
  const key = publicKey(payload.iss)
  must(ed25519.verify(signature, dagCbor.encode(signed), key, { zip215: false }), 'the signature does not verify')

  must(payload.sub === payload.iss, 'not an assertion by its own subject')
  must(payload.cmd === '/ucan/assert/receipt', 'another command')
  must(Array.isArray(payload.prf) && payload.prf.length === 0, 'proofs')
  must(payload.nonce instanceof Uint8Array && payload.nonce.length === 0, 'a nonce')
  count(payload.iat)
  if (payload.exp !== null) count(payload.exp)

  fields(payload.args, ['ran', 'out'])
  link(payload.args.ran, DAG_CBOR)
  const { out } = payload.args
  must(isMap(out) && Object.keys(out).length === 1, 'ok or error is expected')
  if (Object.hasOwn(out, 'ok')) readOk(out.ok)
  else {
    fields(out, ['error'])
    readError(out.error)
  }
  const said = out.ok ?? out.error
  for (const stream of ['stdout', 'stderr']) if (Object.hasOwn(said, stream)) link(said[stream], RAW)

  fields(payload.meta, ['quipu'])
  const { quipu } = payload.meta
  fields(quipu, ['v', 'for', 'ins', 'ms', 'cpu_ms', 'rss', 'tier'], ['host'])
  must(quipu.v === 1, 'another version')
  for (const key of ['ms', 'cpu_ms', 'rss']) count(quipu[key])
  isText(quipu.tier)
  if (Object.hasOwn(quipu, 'host')) isText(quipu.host)
  must(Array.isArray(quipu.ins) && isMap(quipu.for), '`ins` is a list and `for` a map')
  quipu.ins.forEach((id) => link(id, DAG_CBOR))
  for (const [task, via] of Object.entries(quipu.for)) {
    readId(task, 'tree')
    must(isMap(via), 'outputs by task are expected')
    for (const [awaited, output] of Object.entries(via)) {
      readId(awaited, 'tree')
      link(output, DAG_CBOR)
    }
  }
  return envelope
}

function receipts(file) {
  check('signature header', file.header === HEADER)
  for (const key of file.keys) {
    const made = ed25519.getPublicKey(unhex(key.secret))
    check(`public key of ${key.did}`, hex(made) === key.public)
    check(`did of ${key.did}`, `did:key:${base58btc.encode(Uint8Array.of(0xed, 0x01, ...made))}` === key.did)
  }
  const secret = unhex(file.keys[0].secret)
  for (const item of file.accept) {
    const bytes = unhex(item.bytes)
    check(`id of ${item.name}`, idOf(DAG_CBOR, bytes).toString(base32) === item.id)
    accepted(item.name, () => readReceipt(bytes))
    // The other way: from the published meaning to the very bytes. Ed25519 signatures are deterministic.
    const signed = { h: unhex(HEADER), [PAYLOAD]: fromDagJson(item.payload) }
    const signature = ed25519.sign(dagCbor.encode(signed), secret)
    check(`bytes of ${item.name}`, same(dagCbor.encode([signature, signed]), bytes))
    // What others can await: the claim without what was printed beside it.
    const { ok, error } = signed[PAYLOAD].args.out
    const { stderr, ...output } = ok ?? error
    if (error) delete output.stdout
    const claim = dagCbor.encode(ok ? { ok: output } : { error: output })
    check(`output id of ${item.name}`, idOf(DAG_CBOR, claim).toString(base32) === item.output_id)
  }
  for (const item of file.reject) refused(item.name, () => readReceipt(vectorBytes(item)))
}

// Tasks and invocations ---------------------------------------------------------------------------------------

const MAX_TASK_BYTES = 4 << 20
const BRANCHES = ['await/ok', 'await/error', 'await/*']

function promise(value) {
  must(isMap(value) && Object.keys(value).length === 1, 'a promise is expected')
  const [branch] = Object.keys(value)
  must(BRANCHES.includes(branch), 'a promise on no branch')
  link(value[branch], DAG_CBOR)
}

/// Checks a value and counts the promises in it.
function readValue(value, depth) {
  must(depth <= 64, 'nested too deeply')
  if (value === null || ['boolean', 'string'].includes(typeof value) || value instanceof Uint8Array) return 0
  if (typeof value === 'number' || typeof value === 'bigint') {
    must(Number.isSafeInteger(value), 'an integer within 2^53-1 is expected')
    return 0
  }
  if (CID.asCID(value) !== null) {
    link(value)
    return 0
  }
  if (Array.isArray(value)) return value.reduce((n, item) => n + readValue(item, depth + 1), 0)
  must(isMap(value), 'a value of another kind')
  const keys = Object.keys(value)
  if (keys.length === 1 && keys[0].startsWith('await/')) {
    promise(value)
    return 1
  }
  if (keys.length === 1 && keys[0] === 'quipu/at') {
    const [of, ...path] = Array.isArray(value[keys[0]]) ? value[keys[0]] : []
    promise(of)
    must(path.length > 0, 'a part has a path')
    path.forEach(isText)
    return 1
  }
  return keys.reduce((n, key) => n + readValue(value[key], depth + 1), 0)
}

function readTask(bytes) {
  const task = decode(bytes, MAX_TASK_BYTES)
  fields(task, ['sub', 'cmd', 'args', 'nonce'])
  isText(task.sub)
  isText(task.cmd)
  must(task.nonce instanceof Uint8Array, 'a nonce is bytes')
  return readValue(task.args, 0)
}

function tasks(file) {
  for (const item of file.accept) {
    const bytes = unhex(item.bytes)
    check(`encoding of ${item.name}`, same(dagCbor.encode(fromDagJson(item.block)), bytes))
    check(`id of ${item.name}`, idOf(DAG_CBOR, bytes).toString(base32) === item.id)
    const promises = accepted(item.name, () => readTask(bytes))
    if (item.kind === 'invocation') check(`${item.name} holds no promise`, promises === 0)
  }
  for (const item of file.reject) refused(item.name, () => readTask(vectorBytes(item)))
}

function workflows(file) {
  for (const item of file.accept) {
    const bytes = unhex(item.bytes)
    check(`encoding of ${item.name}`, same(dagCbor.encode(fromDagJson(item.block)), bytes))
    check(`JSON of ${item.name}`, same(dagCbor.encode(fromDagJson(JSON.parse(item.json))), bytes))
    check(`id of ${item.name}`, idOf(DAG_CBOR, bytes).toString(base32) === item.id)
    for (const [name, task] of Object.entries(dagCbor.decode(bytes).tasks)) {
      if (task.run.cmd !== undefined) accepted(`task ${name} of ${item.name}`, () => readTask(dagCbor.encode(task.run)))
    }
  }
}

const directory = process.argv[2]
const readers = { 'ids.json': ids, 'trees.json': trees, 'receipts.json': receipts, 'tasks.json': tasks, 'workflows.json': workflows }
for (const [file, read] of Object.entries(readers)) {
  const before = [checks, disagreements]
  read(JSON.parse(readFileSync(join(directory, file), 'utf8')))
  console.log(`${file}: ${checks - before[0]} checks, ${disagreements - before[1]} disagreements`)
}
process.exitCode = disagreements === 0 ? 0 : 1
