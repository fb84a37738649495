/** Several answers to the same message: a new one takes nothing away. */

/** Every answer, the one that is shown in its place. */
function all({ takes = [], place = takes.length, ...own }) {
  return [...takes.slice(0, place), own, ...takes.slice(place)];
}

/** A new answer beside those there are; what came to nothing is not kept. */
export function again(message) {
  const takes = all(message).filter(({ content }) => content !== "");
  return { takes, place: takes.length };
}

/** "2 of 3", or null where there is one. */
export const takeText = ({ takes, place }) => (takes?.length ? `${place + 1} of ${takes.length + 1}` : null);

/** The message with the answer before (-1) or after (1) in view; itself at the ends. */
export function turn(message, step) {
  const takes = all(message);
  const place = message.place + step;
  if (place < 0 || place >= takes.length) return message;
  const [own] = takes.splice(place, 1);
  return { ...own, takes, place };
}
