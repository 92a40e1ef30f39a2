// What the tests of openai's Node package use of Jest, in terms of node:test.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

const expect = (value) => ({
  toBe: (other) => assert.ok(Object.is(value, other)),
  toBeInstanceOf: (type) => assert.ok(value instanceof type),
  not: { toBeInstanceOf: (type) => assert.ok(!(value instanceof type)) },
  rejects: { toThrow: (type) => assert.rejects(value, type) },
});

Object.assign(globalThis, { describe, test, expect });
