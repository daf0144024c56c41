// Gathers the sends of the Node peers: what comes while one is under way goes out with the next.

// `send(messages)` returns a promise of each message's position, in their order. Longer sends cost
// kafkajs more: it copies a partition's list for each message that it adds.
export function gathered(send, maxMessages = 4000) {
  let waiting = [];
  let underWay = false;

  // Not at once: the calls of a batch all come before the loop's next turn.
  function sendSoon() {
    underWay = true;
    setImmediate(sendWaiting);
  }

  async function sendWaiting() {
    const calls = waiting.splice(0, maxMessages);
    try {
      const positions = await send(calls.map((call) => call.message));
      for (let at = 0; at < calls.length; at += 1) calls[at].resolve(positions[at]);
    } catch (error) {
      for (const { reject } of calls) reject(error);
    }
    underWay = false;
    if (waiting.length) sendSoon();
  }

  return (message) =>
    new Promise((resolve, reject) => {
      waiting.push({ message, resolve, reject });
      if (!underWay) sendSoon();
    });
}
