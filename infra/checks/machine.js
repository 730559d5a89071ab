// Validates the state machine (asl-validator) and runs it: a small interpreter of the states that it uses, with the JSONata of Step
// Functions, invokes a function that answers as the code does. Reads {machine, shapes, errors} as JSON and prints the problems.
'use strict';
const { isDeepStrictEqual } = require('node:util');
const validate = require('asl-validator').default ?? require('asl-validator');
const jsonata = require('jsonata');

class Failure extends Error {
  constructor(name, cause) {
    super(`${name}: ${cause}`);
    Object.assign(this, { name, cause });
  }
}

// A field of a state: `{% ... %}` is an expression, at any depth. One without a result is an error, as in Step Functions.
async function evaluate(field, states, variables) {
  if (typeof field === 'string' && field.startsWith('{%')) {
    // Step Functions refuses variables that were not assigned.
    const [, unknown] = [...field.matchAll(/\$([a-z]\w*)(?!\w*\()/gi)].find(([, name]) => name !== 'states' && !(name in variables)) ?? [];
    if (unknown) throw new Failure('States.QueryEvaluationError', `${field}: there is no variable ${unknown} here`);
    let value;
    try {
      value = await jsonata(field.slice(2, -2)).evaluate({}, { states, ...variables });
    } catch (error) {
      throw new Failure('States.QueryEvaluationError', `${field}: ${error.message}`);
    }
    if (value === undefined) throw new Failure('States.QueryEvaluationError', `${field} has no result`);
    return JSON.parse(JSON.stringify(value));
  }
  if (Array.isArray(field)) return Promise.all(field.map((each) => evaluate(each, states, variables)));
  if (field === null || typeof field !== 'object') return field;
  const value = {};
  for (const name of Object.keys(field)) value[name] = await evaluate(field[name], states, variables);
  return value;
}

const MAX_STEPS = 1000;

async function run(machine, input, invoke) {
  const variables = {};
  let [name, steps] = [machine.StartAt, 0];
  for (;;) {
    if ((steps += 1) > MAX_STEPS) throw new Failure('Endless', `more than ${MAX_STEPS} steps`);
    const state = machine.States[name];
    const at = (more) => ({ input, context: {}, ...more });
    if (state.Type === 'Fail') {
      throw new Failure(await evaluate(state.Error, at(), variables), await evaluate(state.Cause, at(), variables));
    }
    let result = input;
    if (state.Type === 'Task') result = await perform(state, await evaluate(state.Arguments, at(), variables), invoke);
    if (state.Type === 'Map') result = await mapped(state, at, variables, invoke);
    const output = 'Output' in state ? await evaluate(state.Output, at({ result }), variables) : result;
    Object.assign(variables, await evaluate(state.Assign ?? {}, at({ result }), variables));
    let next = state.Next;
    if (state.Type === 'Choice') {
      next = state.Default;
      for (const choice of [...state.Choices].reverse()) {
        const holds = await evaluate(choice.Condition, at(), variables);
        if (typeof holds !== 'boolean') throw new Failure('States.QueryEvaluationError', `${choice.Condition} is not a boolean`);
        if (holds) next = choice.Next;
      }
    }
    input = output;
    if (state.Type === 'Succeed' || state.End) return output;
    name = next;
  }
}

async function mapped(state, at, variables, invoke) {
  const items = await evaluate(state.Items, at(), variables);
  if (!Array.isArray(items)) throw new Failure('States.QueryEvaluationError', 'Items is not a list');
  const most = await evaluate(state.MaxConcurrency, at(), variables);
  if (!Number.isInteger(most) || most < 1) throw new Failure('States.QueryEvaluationError', 'MaxConcurrency is not a positive number');
  const results = [];
  for (const [Index, Value] of items.entries()) {
    const selected = await evaluate(state.ItemSelector, at({ context: { Map: { Item: { Index, Value } } } }), variables);
    // A distributed child does not see its parent's variables.
    results.push(await run(state.ItemProcessor, selected, invoke));
  }
  return results;
}

async function perform(state, given, invoke) {
  const tries = new Map();
  for (;;) {
    try {
      return { StatusCode: 200, Payload: invoke(given.FunctionName, given.Payload) };
    } catch (error) {
      const retrier = (state.Retry ?? []).find((each) => each.ErrorEquals.includes(error.name) || each.ErrorEquals.includes('States.ALL'));
      const tried = tries.get(retrier) ?? 0;
      if (!retrier || tried >= retrier.MaxAttempts) throw error;
      tries.set(retrier, tried + 1);
    }
  }
}

// The function. It is stricter than the code, which ignores members that it does not know.
function operations(shapes, errors, { rounds = () => 1, counts = {}, verifications = 1, verified = {}, fails = () => null } = {}) {
  const calls = [];
  let [run, parts] = [null, 0];
  const answered = new Map();
  const invoke = (name, payload) => {
    calls.push(payload);
    const error = fails(calls.length, payload);
    if (error) throw new Failure(error, 'made up');
    if (name !== 'operations-function') throw new Failure('Lambda.ResourceNotFoundException', name);
    const [[kind, task], ...more] = Object.entries(payload);
    const unknown = Object.keys(task).filter((member) => !(shapes[kind] ?? []).includes(member));
    if (more.length || unknown.length || typeof task.projection !== 'string') throw new Failure(errors.invalid, JSON.stringify(payload));
    if (kind === 'settle') return shaped({ projection: task.projection, settled: 0 }, shapes.settled);
    if (kind === 'verify') {
      if (task.run !== run) throw new Failure(errors.invalid, `${task.run} is not the verification ${run}`);
      parts += 1;
      const done = parts >= verifications;
      run = done && parts === 1 ? null : 'run-1';
      const answer = { projection: task.projection, sample: task.sample, run, done, clean: done, events: 9, aggregates: 3, findings: { drifted: 0 }, children: 0, shared: 0 };
      return shaped({ ...answer, ...(done ? verified : {}) }, shapes.verified);
    }
    if (!(Number.isInteger(task.segment) && 0 <= task.segment && task.segment < task.segments)) throw new Failure(errors.invalid, 'no such segment');
    const before = answered.get(task.segment);
    const expected = before ?? { projection: task.projection, segment: task.segment, segments: task.segments };
    if (before?.done || !isDeepStrictEqual(task, expected)) throw new Failure(errors.invalid, `${JSON.stringify(task)} is not the last answer`);
    const round = (task.counts?.events ?? 0) + 1;
    const done = round >= rounds(task.segment);
    const zeros = Object.fromEntries(shapes.counts.map((count) => [count, 0]));
    const cursor = done ? null : { PK: `AGGREGATE#${round}`, SK: 'EVENT#0000000001' };
    const answer = { ...task, cursor, done, counts: { ...zeros, ...(done ? counts : {}), events: round } };
    answered.set(task.segment, answer);
    return shaped(answer, shapes.rebuild);
  };
  return { invoke, calls };
}

function shaped(answer, members) {
  if (!isDeepStrictEqual(Object.keys(answer).sort(), [...members].sort())) {
    throw new Failure('Shape', `the code answers ${members}, and this check ${Object.keys(answer)}`);
  }
  return answer;
}

// What is run, and its expected end.
const input = { projection: 'account-summary' };
const scenarios = ({ invalid, unfinished }) => ({
  'everything succeeds': {
    with: { rounds: (segment) => 1 + (segment % 3) },
    ends: (output, calls) =>
      output.rebuilt.events === 31 && calls.length === 33 && isDeepStrictEqual(calls.at(-2), { settle: input }) && isDeepStrictEqual(calls.at(-1), { verify: { projection: 'account-summary', sample: null, run: null } }),
  },
  'a sample is verified': { input: { ...input, sample: 5 }, ends: (output, calls) => calls.at(-1).verify.sample === 5 },
  'a verification in parts': {
    with: { verifications: 4 },
    ends: (output, calls) => output.rebuilt.events === 16 && output.verified.clean && calls.length === 21 && isDeepStrictEqual(calls.at(-1), { verify: { projection: 'account-summary', sample: null, run: 'run-1' } }),
  },
  'rows differ in the last part': { with: { verifications: 3, verified: { clean: false, findings: { behind: 1 } } }, fails: 'NotClean', because: /"behind":1/, calls: 20 },
  'a part is killed': {
    with: { verifications: 3, fails: (call) => call === 19 && 'Sandbox.Timedout' },
    ends: (output, calls) => calls.length === 21 && isDeepStrictEqual(calls[18], calls[19]),
  },
  'one segment': { input: { ...input, segments: 1 }, with: { rounds: () => 3 }, ends: (output, calls) => output.rebuilt.events === 3 && calls.length === 5 },
  'every count is added up': {
    with: { counts: { aggregates: 1, replaced: 2, created: 3, changed: 4, caughtUp: 5 } },
    ends: ({ rebuilt }) =>
      isDeepStrictEqual(rebuilt, { events: 16, aggregates: 16, replaced: 32, created: 48, changed: 64, caughtUp: 80, parked: 0, stopped: 0 }),
  },
  'aggregates are parked': { with: { counts: { parked: 1 } }, fails: 'Parked', because: /^16 aggregates of account-summary are parked and 0 / },
  'aggregates are stopped': { with: { counts: { stopped: 1 } }, fails: 'Parked', because: /are parked and 16 stopped/ },
  'rows differ': { with: { verified: { clean: false, findings: { drifted: 2 } } }, fails: 'NotClean', because: /account-summary.*"drifted":2/ },
  'child rows differ': { with: { verified: { clean: false, children: 4 } }, fails: 'NotClean', because: /4 child rows/ },
  'sums differ': { with: { verified: { clean: false, shared: 3 } }, fails: 'NotClean', because: /3 attributes of shared rows/ },
  'errors that pass': {
    with: { fails: (call) => ({ 1: 'Lambda.TooManyRequestsException', 2: unfinished, 3: 'Runtime.ExitError', 4: 'Sandbox.Timedout', 5: 'States.Timeout' })[call] },
    ends: (output, calls) => calls.length === 23 && isDeepStrictEqual(calls[0], calls[5]),
  },
  'an error that persists': { with: { fails: () => unfinished }, fails: unfinished, calls: 6 },
  'an unknown projection': { with: { fails: () => invalid }, fails: invalid, calls: 1 },
  'settling fails': { with: { fails: (_, task) => 'settle' in task && unfinished }, fails: unfinished },
  'verifying fails': { with: { fails: (_, task) => 'verify' in task && unfinished }, fails: unfinished },
  'no projection is named': { input: {}, fails: 'States.QueryEvaluationError', calls: 0 },
});

async function problem(name, scenario, machine, shapes, errors) {
  const { invoke, calls } = operations(shapes, errors, scenario.with);
  let failed, output;
  try {
    output = await run(machine, scenario.input ?? input, invoke);
  } catch (error) {
    failed = error;
  }
  if (failed?.name !== scenario.fails) return `${name}: ends in ${failed ?? JSON.stringify(output)}`;
  if (scenario.because && !scenario.because.test(failed.cause)) return `${name}: the cause is "${failed.cause}"`;
  if ('calls' in scenario && calls.length !== scenario.calls) return `${name}: ${calls.length} invocations, not ${scenario.calls}`;
  if (scenario.ends && !scenario.ends(output, calls)) return `${name}: ends in ${JSON.stringify(output)} after ${calls.length} invocations`;
  return null;
}

(async () => {
  const { machine, shapes, errors } = JSON.parse(require('node:fs').readFileSync(0));
  const { isValid, errors: invalid } = validate(machine);
  const language = isValid ? [] : invalid.map((error) => error.Message ?? error.message ?? JSON.stringify(error));
  const ran = [];
  for (const [name, scenario] of Object.entries(scenarios(errors))) ran.push(await problem(name, scenario, machine, shapes, errors));
  console.log(JSON.stringify({ language, run: ran.filter(Boolean) }));
})();
