// Statistics by the npm client `node-etcd` (v2) of the store on 127.0.0.1:2379.
'use strict';
const assert = require('node:assert/strict');
const { test } = require('node:test');
const Etcd = require('node-etcd');

const etcd = new Etcd('http://127.0.0.1:2379');
const call = name => new Promise((resolve, reject) => {
  etcd[name]((error, body) => (error ? reject(error) : resolve(body)));
});

test('statistics', async () => {
  assert.equal((await call('selfStats')).state, 'StateLeader');
  assert.ok((await call('leaderStats')).leader);
});
