// The npm client `etcd3` (v3) against the store on 127.0.0.1:2379.
'use strict';
const assert = require('node:assert/strict');
const { once } = require('node:events');
const { after, beforeEach, test } = require('node:test');
const { Etcd3, EtcdLeaseInvalidError, EtcdLockFailedError } = require('etcd3');

const etcd = new Etcd3({ hosts: 'http://127.0.0.1:2379' });
after(() => etcd.close());
beforeEach(() => etcd.delete().all());

test('keys and values', async () => {
  await etcd.put('a/1').value('one');
  await etcd.put('a/2').value('two');
  await etcd.put('b').value(Buffer.from([0, 255]));
  assert.equal(await etcd.get('a/1'), 'one');
  assert.equal(await etcd.get('none'), null);
  assert.deepEqual(await etcd.get('b').buffer(), Buffer.from([0, 255]));
  assert.deepEqual(await etcd.getAll().prefix('a/').strings(), { 'a/1': 'one', 'a/2': 'two' });
  assert.deepEqual(await etcd.getAll().prefix('a/').sort('Key', 'Descend').keys(), ['a/2', 'a/1']);
  assert.deepEqual(await etcd.getAll().limit(1).keys(), ['a/1']);
  assert.equal(await etcd.getAll().prefix('a/').count(), 2);
  assert.equal(await etcd.get('a/1').exists(), true);
  const before = await etcd.get('a/1').exec();
  const old = await etcd.put('a/1').value('new').getPrevious();
  assert.equal(old.value.toString(), 'one');
  assert.equal(await etcd.get('a/1').revision(before.header.revision), 'one');
  const deleted = await etcd.delete().prefix('a/').exec();
  assert.equal(deleted.deleted, '2');
});

test('leases keep and drop keys', async () => {
  const lease = etcd.lease(60);
  await lease.put('leased').value('x');
  await lease.keepaliveOnce();
  assert.equal(await etcd.get('leased'), 'x');
  await lease.revoke();
  assert.equal(await etcd.get('leased'), null);
  await assert.rejects(etcd.put('k').value('v').lease('1234'), EtcdLeaseInvalidError);
});

test('transactions take one branch', async () => {
  await etcd.put('k').value('v');
  const run = value => etcd.if('k', 'Value', '==', value).then(etcd.put('hit').value(value)).else(etcd.get('k')).commit();
  const missed = await run('other');
  assert.equal(missed.succeeded, false);
  assert.equal(missed.responses[0].response_range.kvs[0].value.toString(), 'v');
  assert.equal((await run('v')).succeeded, true);
  assert.equal(await etcd.get('hit'), 'v');
});

test('software transactional memory retries', async () => {
  await etcd.put('n').value(0);
  const add = () => etcd.stm({ retries: 100 }).transact(async tx => {
    await tx.put('n').value(Number(await tx.get('n').number()) + 1);
  });
  await Promise.all(Array.from({ length: 10 }, add));
  assert.equal(await etcd.get('n').number(), 10);
});

test('watches see puts, deletes and the past', async () => {
  const watcher = await etcd.watch().prefix('w/').create();
  const heard = [];
  watcher.on('put', kv => heard.push(`put ${kv.key}=${kv.value}`));
  const gone = once(watcher, 'delete');
  const { header } = await etcd.put('w/1').value('a');
  await etcd.put('other').value('b');
  await etcd.put('w/2').value('c');
  await etcd.delete().key('w/1');
  const [last] = await gone;
  assert.equal(last.key.toString(), 'w/1');
  assert.deepEqual(heard, ['put w/1=a', 'put w/2=c']);
  await watcher.cancel();
  const late = await etcd.watch().key('w/1').startRevision(header.revision).create();
  const [event] = await once(late, 'delete');
  assert.equal(event.key.toString(), 'w/1');
  await late.cancel();
});

test('locks exclude', async () => {
  const lock = await etcd.lock('lock').ttl(60).acquire();
  await assert.rejects(etcd.lock('lock').acquire(), EtcdLockFailedError);
  await lock.release();
  const again = await etcd.lock('lock').acquire();
  await again.release();
});

test('elections have one leader', async () => {
  const election = etcd.election('election', 60);
  const observer = await election.observe();
  const changed = once(observer, 'change');
  const campaign = election.campaign('one');
  await once(campaign, 'elected');
  assert.equal((await changed)[0], 'one');
  assert.equal(await election.leader(), 'one');
  await campaign.proclaim('two');
  assert.equal(await election.leader(), 'two');
  await campaign.resign();
  await observer.cancel();
});

test('namespaces prefix every key', async () => {
  const inside = etcd.namespace('ns/');
  await inside.put('k').value('v');
  assert.equal(await etcd.get('ns/k'), 'v');
  assert.deepEqual(await inside.getAll().keys(), ['k']);
});

test('members and status', async () => {
  const { members } = await etcd.cluster.memberList({});
  assert.equal(members.length, 1);
  const status = await etcd.maintenance.status({});
  assert.equal(status.leader, members[0].ID);
});

test('users and roles', async () => {
  const role = await etcd.role('reader').create();
  await role.grant({ permission: 'Read', range: etcd.range({ prefix: 'r/' }) });
  const user = await etcd.user('reader').create('secret');
  await user.addRole('reader');
  assert.deepEqual((await user.roles()).map(one => one.name), ['reader']);
  assert.equal((await role.permissions()).length, 1);
  await user.delete();
  await role.delete();
});
