// The npm client `node-etcd` (v2) against the store on 127.0.0.1:2379.
'use strict';
const assert = require('node:assert/strict');
const { once } = require('node:events');
const { beforeEach, test } = require('node:test');
const Etcd = require('node-etcd');

const etcd = new Etcd('http://127.0.0.1:2379');
// One call as a promise of the body; a refusal rejects with the client's error.
const call = (name, ...args) => new Promise((resolve, reject) => {
  etcd[name](...args, (error, body) => (error ? reject(error) : resolve(body)));
});
beforeEach(() => call('del', 't', { recursive: true }).catch(error => assert.equal(error.errorCode, 100)));

test('set, get, del', async () => {
  const set = await call('set', 't/k', 'v');
  assert.equal(set.action, 'set');
  const got = await call('get', 't/k');
  assert.deepEqual([got.node.key, got.node.value, got.node.modifiedIndex], ['/t/k', 'v', set.node.modifiedIndex]);
  const gone = await call('del', 't/k');
  assert.deepEqual([gone.action, gone.prevNode.value], ['delete', 'v']);
  await assert.rejects(call('get', 't/k'), { errorCode: 100 });
});

test('a time to live runs out', async () => {
  const set = await call('set', 't/ttl', 'v', { ttl: 1 });
  assert.equal(set.node.ttl, 1);
  const gone = await call('watch', 't/ttl');
  assert.equal(gone.action, 'expire');
  await assert.rejects(call('get', 't/ttl'), { errorCode: 100 });
});

test('directories', async () => {
  await call('mkdir', 't/d');
  await call('set', 't/d/b', '2');
  await call('set', 't/d/a', '1');
  await assert.rejects(call('mkdir', 't/d'), { errorCode: 102 });
  await assert.rejects(call('set', 't/d', 'v'), { errorCode: 102 });
  await assert.rejects(call('rmdir', 't/d'), { errorCode: 108 });
  const list = await call('get', 't/d', { recursive: true, sorted: true });
  assert.deepEqual(list.node.nodes.map(node => node.key), ['/t/d/a', '/t/d/b']);
  await call('rmdir', 't/d', { recursive: true });
});

test('created in order', async () => {
  const made = [];
  for (const value of ['a', 'b', 'c']) made.push((await call('create', 't/q', value)).node);
  const list = await call('get', 't/q', { sorted: true });
  assert.deepEqual(list.node.nodes.map(node => node.value), ['a', 'b', 'c']);
  assert.equal(made[0].key, `/t/q/${String(made[0].createdIndex).padStart(20, '0')}`);
});

test('compare and swap, compare and delete', async () => {
  await call('set', 't/c', '1');
  const swapped = await call('compareAndSwap', 't/c', '2', '1');
  assert.deepEqual([swapped.action, swapped.prevNode.value], ['compareAndSwap', '1']);
  await assert.rejects(call('compareAndSwap', 't/c', '3', '1'), { errorCode: 101 });
  await assert.rejects(call('set', 't/c', 'x', { prevExist: false }), { errorCode: 105 });
  await assert.rejects(call('compareAndDelete', 't/c', '1'), { errorCode: 101 });
  assert.equal((await call('compareAndDelete', 't/c', '2')).action, 'compareAndDelete');
});

test('a wait for the past is answered at once', async () => {
  const set = await call('set', 't/w', '1');
  await call('set', 't/w', '2');
  const first = await call('watchIndex', 't/w', set.node.modifiedIndex);
  assert.equal(first.node.value, '1');
});

test('a watcher hears every change in order', async () => {
  const start = (await call('set', 't/x/start', '0')).node.modifiedIndex;
  const watcher = etcd.watcher('t/x', start + 1, { recursive: true });
  const heard = [];
  watcher.on('change', body => heard.push(`${body.action} ${body.node.key}`));
  await call('set', 't/x/1', 'a');
  await call('set', 't/y', 'b');
  await call('del', 't/x/1');
  const done = once(watcher, 'set');
  await call('set', 't/x/end', 'c');
  while (heard.length < 3) await once(watcher, 'change');
  await done;
  assert.deepEqual(heard, ['set /t/x/1', 'delete /t/x/1', 'set /t/x/end']);
  watcher.stop();
});
