// What quipu hands to others, read and made by implementations that share no code with it: CAR files with @ipld/car
// and @ipld/dag-cbor, envelopes of attestations with @noble/curves. Written from docs/formats/ and the public
// specifications alone.
//
//     node share.mjs read FILE                 checks every block, prints what is in the file as JSON
//     node share.mjs vectors FILE              checks the published files
//     node share.mjs rewrite FILE TO           writes the same blocks with CarWriter, last block first
//     node share.mjs reissue FILE TO SECRET    the same claims in receipts of another key (64 hexadecimal digits)
//     node share.mjs gateway URL ID            reads a directory from a trustless gateway in both forms
//     node share.mjs attested FILE DID DIR     checks statements in DSSE envelopes against the files in DIR

import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { CarReader, CarWriter } from '@ipld/car'
import * as dagCbor from '@ipld/dag-cbor'
import { ed25519 } from '@noble/curves/ed25519.js'
import { blake3 } from '@noble/hashes/blake3.js'
import { base58btc } from 'multiformats/bases/base58'
import { CID } from 'multiformats/cid'
import * as Digest from 'multiformats/hashes/digest'

const DAG_CBOR = 0x71
const BLAKE3 = 0x1e
const PAYLOAD = 'ucan/inv@1.0.0-rc.1'

function must(holds, why) {
  if (!holds) throw new Error(why)
}

const unhex = (text) => new Uint8Array(Buffer.from(text, 'hex'))
const same = (a, b) => Buffer.compare(a, b) === 0
const idOf = (codec, bytes) => CID.createV1(codec, Digest.create(BLAKE3, blake3(bytes)))

function keyOf(did) {
  const bytes = base58btc.decode(did.replace(/^did:key:/, ''))
  must(bytes.length === 34 && bytes[0] === 0xed && bytes[1] === 0x01, 'an ed25519 did:key is expected')
  return bytes.slice(2)
}

const didOf = (key) => `did:key:${base58btc.encode(new Uint8Array([0xed, 0x01, ...key]))}`

async function load(path) {
  const reader = await CarReader.fromIterable(createReadStream(path))
  const blocks = []
  for await (const block of reader.blocks()) {
    must(block.cid.equals(idOf(block.cid.code, block.bytes)), `${block.cid} has other bytes`)
    if (block.cid.code === DAG_CBOR) must(same(dagCbor.encode(dagCbor.decode(block.bytes)), block.bytes), 'canonical')
    blocks.push(block)
  }
  return { roots: await reader.getRoots(), blocks }
}

async function save(path, roots, blocks) {
  const { writer, out } = CarWriter.create(roots)
  const written = new Promise((resolve, reject) => {
    Readable.from(out).pipe(createWriteStream(path)).on('finish', resolve).on('error', reject)
  })
  for (const block of blocks) await writer.put(block)
  await writer.close()
  await written
}

function receiptOf(bytes) {
  const [signature, signed] = dagCbor.decode(bytes)
  const payload = signed[PAYLOAD]
  must(ed25519.verify(signature, dagCbor.encode(signed), keyOf(payload.iss), { zip215: false }), 'the signature is bad')
  return payload
}

async function read(path) {
  const { roots, blocks } = await load(path)
  const receipts = roots.map((root) => {
    const block = blocks.find((b) => b.cid.equals(root))
    must(block !== undefined, `root ${root} is not in the file`)
    const payload = receiptOf(block.bytes)
    const ran = blocks.some((b) => b.cid.equals(payload.args.ran))
    return { id: root.toString(), issuer: payload.iss, invocation: ran, outputs: Object.keys(payload.args.out.ok.outputs) }
  })
  console.log(JSON.stringify({ receipts, blocks: blocks.length }))
}

/// The files among the published vectors that must be read.
async function vectors(path) {
  const file = JSON.parse(readFileSync(path, 'utf8'))
  for (const item of file.accept) {
    const reader = await CarReader.fromBytes(unhex(item.bytes))
    const roots = (await reader.getRoots()).map((root) => root.toString())
    must(same(Buffer.from(roots.join()), Buffer.from(item.receipts.join())), `${item.name}: other roots`)
    let count = 0
    for await (const block of reader.blocks()) {
      must(block.cid.equals(idOf(block.cid.code, block.bytes)), `${item.name}: ${block.cid} has other bytes`)
      if (roots.includes(block.cid.toString())) receiptOf(block.bytes)
      count += 1
    }
    must(count === item.blocks, `${item.name}: ${count} blocks`)
  }
  console.log(JSON.stringify({ accepted: file.accept.length }))
}

async function rewrite(from, to) {
  const { roots, blocks } = await load(from)
  await save(to, roots, blocks.reverse())
}

async function reissue(from, to, secret) {
  const key = unhex(secret)
  const issuer = didOf(ed25519.getPublicKey(key))
  const { roots, blocks } = await load(from)
  const others = blocks.filter((b) => !roots.some((root) => root.equals(b.cid)))
  const receipts = blocks.filter((b) => roots.some((root) => root.equals(b.cid))).map((block) => {
    const [, signed] = dagCbor.decode(block.bytes)
    signed[PAYLOAD] = { ...signed[PAYLOAD], iss: issuer, sub: issuer }
    const bytes = dagCbor.encode([ed25519.sign(dagCbor.encode(signed), key), signed])
    return { cid: idOf(DAG_CBOR, bytes), bytes }
  })
  await save(to, receipts.map((r) => r.cid), [...receipts, ...others])
}

async function gateway(url, id) {
  const get = async (path, type) => {
    const response = await fetch(`${url}/ipfs/${path}`, { headers: { accept: type } })
    must(response.status === 200, `${path}: ${response.status}`)
    must(response.headers.get('content-type').startsWith(type), `${path}: another type`)
    must(/^attachment/.test(response.headers.get('content-disposition')), `${path}: no attachment`)
    return new Uint8Array(await response.arrayBuffer())
  }
  const [raw, car] = ['application/vnd.ipld.raw', 'application/vnd.ipld.car']
  const root = CID.parse(id)
  const block = await get(id, raw)
  must(root.equals(idOf(DAG_CBOR, block)), 'the block has other bytes')
  const reader = await CarReader.fromBytes(await get(id, car))
  const blocks = []
  for await (const one of reader.blocks()) {
    must(one.cid.equals(idOf(one.cid.code, one.bytes)), `${one.cid} has other bytes`)
    must(same(one.bytes, await get(one.cid.toString(), raw)), `${one.cid} differs between the forms`)
    blocks.push(one)
  }
  must(blocks[0].cid.equals(root) && (await reader.getRoots())[0].equals(root), 'the root does not come first')
  must((await get('bafkqaaa', raw)).length === 0, 'the probe has bytes')
  const probe = await CarReader.fromBytes(await get('bafkqaaa', car))
  const entries = dagCbor.decode(block).e.map((entry) => entry.n)
  console.log(JSON.stringify({ blocks: blocks.length, entries, probe: (await probe.getRoots()).map(String) }))
}

function attested(path, did, dir) {
  const names = []
  for (const line of readFileSync(path, 'utf8').trim().split('\n')) {
    const envelope = JSON.parse(line)
    const body = Buffer.from(envelope.payload, 'base64')
    const type = envelope.payloadType
    must(type === 'application/vnd.in-toto+json', 'a payload of another type')
    const pae = Buffer.concat([Buffer.from(`DSSEv1 ${Buffer.byteLength(type)} ${type} ${body.length} `), body])
    must(envelope.signatures.length === 1 && envelope.signatures[0].keyid === did, 'signed by another key')
    const signature = new Uint8Array(Buffer.from(envelope.signatures[0].sig, 'base64'))
    must(ed25519.verify(signature, new Uint8Array(pae), keyOf(did), { zip215: false }), 'the signature is bad')
    const statement = JSON.parse(body.toString('utf8'))
    must(statement._type === 'https://in-toto.io/Statement/v1', 'no statement of in-toto, version 1')
    must(statement.predicateType === 'https://slsa.dev/provenance/v1', 'no provenance of SLSA, version 1')
    const { buildDefinition, runDetails } = statement.predicate
    must(/^https:/.test(buildDefinition.buildType) && buildDefinition.externalParameters.task, 'no build definition')
    must(/^did:key:z6Mk/.test(runDetails.builder.id), 'no builder')
    must(Date.parse(runDetails.metadata.startedOn) <= Date.parse(runDetails.metadata.finishedOn), 'times in disorder')
    must(statement.subject.length > 0, 'no subject')
    for (const subject of statement.subject) {
      const found = createHash('sha256').update(readFileSync(join(dir, subject.name))).digest('hex')
      must(found === subject.digest.sha256, `${subject.name} has another SHA-256`)
      names.push(subject.name)
    }
  }
  console.log(JSON.stringify({ subjects: names }))
}

const [command, ...args] = process.argv.slice(2)
await { read, vectors, rewrite, reissue, gateway, attested }[command](...args)
