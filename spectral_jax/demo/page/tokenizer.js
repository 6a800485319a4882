// Characters or bytes as tokens, as a run's tokenizer.json tells them.

export class UnknownCharacter extends Error {}

// Gives {encode: text → ids, decoder: () → (id → text)}. A decoder keeps the
// bytes of a character until they are complete, or until it is given no id.
export function makeTokenizer(fields) {
  return fields.name === 'char' ? characters(fields) : bytes(fields);
}

function characters({vocabulary}) {
  const all = Array.from(vocabulary);
  const ids = new Map(all.map((character, id) => [character, id]));
  const encode = (text) =>
    Array.from(text, (character) => {
      if (!ids.has(character)) {
        throw new UnknownCharacter(
          `The model does not know ${JSON.stringify(character)}; it knows ` +
            all.map((c) => (c.trim() ? c : JSON.stringify(c))).join(' '),
        );
      }
      return ids.get(character);
    });
  return {encode, decoder: () => (id) => all[id] ?? ''};
}

function bytes({separator}) {
  const encode = (text) => Array.from(new TextEncoder().encode(text));
  const decoder = () => {
    const decoder = new TextDecoder('utf-8', {ignoreBOM: true});
    return (id) => {
      if (id === undefined) return decoder.decode();
      const byte = Uint8Array.of(id === separator ? 10 : id);
      return decoder.decode(byte, {stream: true});
    };
  };
  return {encode, decoder};
}
