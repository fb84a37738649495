"""Every sentence the stories are made of.

A slot `{role}` is a name and `{role.fact}` a fact about that character; the roles are hero,
friend (the hero's best friend) and other (somebody else). `{hero.she}`, `{hero.him}` and
`{hero.his}` are pronouns, `{hero.event}` is what `{hero.fear}` does when it comes.
All other slots are filled from FILLINGS, once for each story.
A fact always shares its sentence with the name of its owner.
"""

FILLINGS = {
    "weather": ("sunny", "rainy", "cold", "warm", "cloudy", "quiet"),
    "season": ("spring", "summer", "autumn", "winter"),
    "place": (
        "in the meadow",
        "by the river",
        "near the old well",
        "at the market",
        "in the park",
        "along the beach",
    ),
    "there": (
        "through the forest",
        "over the fields",
        "down to the lake",
        "up the hill",
        "past the orchard",
        "into the valley",
    ),
    "spot": (
        "under a bush",
        "on a low branch",
        "behind a barrel",
        "in the tall grass",
        "between two stones",
        "next to a puddle",
    ),
    "small": ("sparrow", "kitten", "snail", "beetle", "lamb", "puppy"),
    "mood": ("kind", "clever", "cheerful", "gentle", "patient", "curious"),
}

LEADS = (
    "Once upon a time, there was a {hero.species} named {hero}.",
    "Once upon a time, on a {weather} morning, {hero} woke up early.",
    "One {weather} day, {hero} went for a walk {place}.",
    "Long ago, in a valley far away, there lived a {mood} {hero.species} named {hero}.",
    "It was a {weather} afternoon, and {hero} was sitting {place}.",
    "This is the story of {hero} and a very {weather} day.",
    "Once upon a time, everyone in the village knew {hero}.",
    "Early one {season} morning, {hero} looked out of the window.",
    "Last {season}, something happened to {hero}.",
    "Once upon a time, in {season}, {hero} had a small adventure.",
)

FACTS = {
    "species": (
        "{hero} was a happy {hero.species}.",
        "{hero} the {hero.species} was always ready to help.",
        "{hero} was glad to be a {hero.species}.",
        "Everybody liked {hero} the {hero.species}.",
    ),
    "home": (
        "{hero} lived in the {hero.home}.",
        "{hero}'s home was the {hero.home}.",
        "{hero} had a cosy little room in the {hero.home}.",
        "Every evening {hero} went home to the {hero.home}.",
    ),
    "wears": (
        "{hero} always wore a {hero.wears}.",
        "{hero} never went out without {hero.his} {hero.wears}.",
        "Everybody could tell {hero} from far away by {hero.his} {hero.wears}.",
        "{hero} was very proud of {hero.his} {hero.wears}.",
    ),
    "food": (
        "{hero}'s favourite food was {hero.food}.",
        "{hero} loved to eat {hero.food}.",
        "{hero} always had {hero.food} for supper.",
        "Nothing tasted better to {hero} than {hero.food}.",
    ),
    "friend": (
        "{hero}'s best friend was {hero.friend}.",
        "{hero} was best friends with {hero.friend}.",
        "{hero} told every secret to {hero.friend}.",
        "The best friend {hero} had in the world was {hero.friend}.",
    ),
    "fear": (
        "{hero} was afraid of {hero.fear}.",
        "{hero} feared nothing but {hero.fear}.",
        "{hero} had bad dreams about {hero.fear}.",
        "Only one thing scared {hero}, and that was {hero.fear}.",
    ),
    "hobby": (
        "{hero} spent every free hour {hero.hobby}.",
        "{hero} was very good at {hero.hobby}.",
        "Above all, {hero} enjoyed {hero.hobby}.",
        "{hero} was never bored, for {hero.she} loved {hero.hobby}.",
    ),
}

PAIRS = (
    "{hero} lived in the {hero.home} and always wore a {hero.wears}.",
    "{hero} was a happy {hero.species} and loved to eat {hero.food}.",
    "{hero} was glad to be a {hero.species} and lived in the {hero.home}.",
    "{hero} the {hero.species} was afraid of {hero.fear}.",
    "{hero} was very good at {hero.hobby}, but {hero.she} was afraid of {hero.fear}.",
    "{hero} feared nothing but {hero.fear} and never went out without {hero.his} {hero.wears}.",
    "{hero}'s home was the {hero.home}, and {hero.his} favourite food was {hero.food}.",
    "{hero} spent every free hour {hero.hobby}, and {hero.his} best friend was {hero.friend}.",
)

SCARES = (
    "{hero} shook from head to toe when {hero.fear} {hero.event}.",
    "{hero} hid behind a tree when {hero.fear} {hero.event}.",
    "{hero} wanted to run away when {hero.fear} {hero.event}.",
    "{hero} turned pale when {hero.fear} {hero.event}.",
)

SCARED = (
    "hero.fear",
    (
        "That day {hero} and {friend} the {friend.species} walked {there}.",
        "{friend} put on {friend.his} {friend.wears}, and they went {there}.",
    ),
    SCARES,
    (
        '"I am with you," said {friend}, for even {friend} was afraid of {friend.fear}.',
        "{friend} the {friend.species} did not laugh, but stayed close to {hero}.",
        "To help {hero}, {friend} talked about {friend.hobby} until it was over.",
    ),
    (
        "Then {friend} took {hero} home to the {hero.home} and gave {hero.him} some {hero.food}.",
        "Later they sat in {hero}'s home, the {hero.home}, and ate {hero.food}.",
    ),
)

LOST_THING = (
    (
        "But suddenly {hero} could not find {hero.his} {hero.wears}.",
        "Then something bad happened: {hero} lost {hero.his} {hero.wears}.",
        "A little later {hero} noticed that {hero.his} {hero.wears} was gone.",
    ),
    (
        "{hero} looked in every corner of the {hero.home}.",
        "{hero} did not even feel like {hero.hobby}.",
    ),
    (
        "{hero} ran to the {friend.home}, where {friend} was {friend.hobby}.",
        "{hero} went to see {friend}, who lived in the {friend.home}.",
        '"I will help you," said {friend} the {friend.species}.',
    ),
    (
        "They walked {there} and looked behind every stone.",
        "They asked a little {small}, and it showed them the way.",
    ),
    (
        "At last {friend} saw {hero}'s {hero.wears} {spot}.",
        "And there it was: {hero}'s {hero.wears} lay {spot}.",
    ),
    (
        "To say thank you, {hero} made {friend} some {friend.food}.",
        "That evening {hero} invited {friend} to a meal of {friend.food}.",
    ),
)

BIRTHDAY = (
    (
        "It was the birthday of {friend} the {friend.species}, and {hero} had no gift yet.",
        "{hero} wanted to surprise {friend} the {friend.species}, who had a birthday.",
    ),
    "friend.food",
    (
        "So {hero} stopped {hero.hobby} and made {friend} some {friend.food}.",
        "So {hero} filled a basket for {friend} with {friend.food}.",
    ),
    (
        "The basket was heavy, but {other} the {other.species} helped to carry it.",
        "{hero} lost {hero.his} {hero.wears} on the way, but {other} the {other.species} found it.",
    ),
    (
        "{friend} opened the door of the {friend.home} and smiled.",
        "{friend} was waiting in the {friend.home} and jumped for joy.",
    ),
    (
        "They danced until the moon came up, and {friend} waved {friend.his} {friend.wears}.",
        "After the meal {friend} talked about {friend.hobby}, and they all laughed a lot.",
    ),
)

ILL = (
    (
        "But that week {hero} had a bad cold and stayed in the {hero.home}.",
        "Then {hero} hurt a foot and could not leave the {hero.home}.",
    ),
    (
        "{hero} was too weak to think of {hero.hobby}.",
        "{hero} missed {hero.hobby} very much.",
    ),
    (
        "{friend} heard it in the {friend.home} and came at once.",
        "Then {friend} put on {friend.his} {friend.wears} and came to help.",
    ),
    (
        "{friend} brought {hero} some {hero.food} and a warm blanket.",
        "{friend} gave {hero} some {hero.food} and hot tea.",
    ),
    (
        "To pass the time, {friend} talked about {friend.hobby}.",
        "{friend} told a funny tale about a {friend.species} and {friend.fear}.",
    ),
    (
        "After three days {hero} was well again and put on {hero.his} {hero.wears}.",
        "On Sunday {hero} was able to get up and began {hero.hobby} again.",
    ),
)

SORRY = (
    (
        "One day {hero} went to see {friend} in the {friend.home}.",
        "{hero} wanted to visit {friend}, who lived in the {friend.home}.",
    ),
    (
        "{friend} was out and had left some {friend.food} on the table.",
        "Nobody was there, but for supper {friend} had made {friend.food}.",
    ),
    (
        "It smelled so good that {hero} ate it all.",
        "{hero} took one small bite, and then another, until nothing was left.",
    ),
    (
        "Soon {friend} came back, and {friend.she} was hungry and very sad.",
        "{friend} took off {friend.his} {friend.wears} and saw the empty plate.",
    ),
    (
        '"It was me, and I am sorry," said {hero} the {hero.species}.',
        "{hero} the {hero.species} was ashamed and told the truth.",
    ),
    (
        "The next day {hero} made {friend} some {friend.food}, twice as much as before.",
        "In the morning {hero} came back and gave {friend} some {friend.food}.",
    ),
    (
        "{friend} laughed, and they talked about {friend}'s love of {friend.hobby}.",
        "{friend} was not angry any more and waved {friend.his} {friend.wears}.",
    ),
)

LITTLE_ONE = (
    (
        "{hero} heard a thin voice {spot}, and there sat a little {small}.",
        "Suddenly a little {small} came running to {hero} the {hero.species}.",
    ),
    (
        '"I have lost my way, and I am hungry," it said.',
        '"I am so tired, and I want to go home," it said.',
    ),
    (
        "{hero} sat down and gave it a bit of {hero.his} {hero.food}.",
        "{hero} picked it up and let it touch {hero.his} {hero.wears}.",
    ),
    (
        "{hero} took it to {friend}, who lived in the {friend.home}.",
        "{hero} did not know the way, so they asked {friend} the {friend.species}.",
    ),
    (
        "{friend} stopped {friend.hobby} and led them {there}.",
        "{friend} put on {friend.his} {friend.wears} and led them {there}.",
    ),
    (
        "There the mother was waiting, and she kissed the little {small} again and again.",
        "At last they saw a small house, and the whole family came out to thank them.",
    ),
    (
        "In the evening {hero} sat in the {hero.home} and ate {hero.food}.",
        "That night {hero} lay in the {hero.home} and was happy.",
    ),
)

FAIR = (
    "hero.hobby",
    (
        "There was a fair in the village, and everybody was asked to show something.",
        "On Sunday there was a big fair with a prize for the best show.",
    ),
    (
        "But {hero} wanted to go home to the {hero.home} and hide.",
        "But for {hero} a crowd was as bad as {hero.fear}.",
    ),
    (
        '"I know you can do it," said {friend} the {friend.species} and smiled.',
        "{friend} stood in the first row, and {hero} could see {friend.his} {friend.wears}.",
    ),
    (
        "So {hero} took a deep breath and showed how much {hero.she} knew about {hero.hobby}.",
        "So {hero} touched {hero.his} {hero.wears} for luck and began.",
    ),
    (
        "Everyone clapped, and {other} the {other.species} clapped the loudest.",
        "{other} the {other.species} said that it was the best show of the year.",
    ),
    (
        "The prize was a basket, and {hero} found {hero.food} in it.",
        "After the fair {friend} gave {hero} some {hero.food}.",
    ),
)

LOST_WAY = (
    (
        "{hero} went {there} alone to gather wood.",
        "{hero} followed a little {small} {there} and forgot the time.",
    ),
    (
        "{hero} did not know the way back, and then {hero.fear} {hero.event}.",
        "It was late when {hero} sat down {spot}, and then {hero.fear} {hero.event}.",
    ),
    (
        "{hero} was tired and dreamed of {hero.food}.",
        "{hero} thought of {hero.his} warm bed in the {hero.home}.",
    ),
    (
        "Far away in the {friend.home}, {friend} began to worry.",
        "{friend} stopped {friend.hobby} and looked at the clock.",
    ),
    (
        "{friend} put on {friend.his} {friend.wears} and went out to search.",
        "{friend} called {other} the {other.species}, and they went out to search.",
    ),
    (
        "Then {friend} saw {hero}'s {hero.wears} between the trees.",
        "From far away {friend} noticed {hero}'s {hero.wears}.",
    ),
    (
        "Before long {hero} was back in the {hero.home} and ate {hero.food}.",
        "At home {friend} made a fire and gave {hero} some {hero.food}.",
    ),
)

COMFORT = (
    (
        "{hero} the {hero.species} and {friend} the {friend.species} went {there} together.",
        "{hero} the {hero.species} asked {friend} to come along, and they went {there}.",
    ),
    (
        "There they met {other} the {other.species}.",
        "On the way they saw {other} the {other.species}.",
    ),
    tuple(sentence.replace("{hero", "{other") for sentence in SCARES),
    (
        '"Everybody fears something," said {hero}, "and I am afraid of {hero.fear}."',
        '"Everybody fears something," said {friend}, "and I am afraid of {friend.fear}."',
        "{hero} talked about {hero.hobby} until {other} smiled again.",
    ),
    (
        "Then they took {other} home to the {other.home}.",
        "They did not leave {other} alone before they reached the {other.home}.",
    ),
    (
        "{other} thanked them and put {other.food} on the table.",
        "{other} was happy again and waved {other.his} {other.wears}.",
    ),
)

SURPRISE = (
    (
        "But {hero} was sad, for nobody had come to visit all day.",
        "It was {hero}'s birthday, and nobody seemed to know it.",
    ),
    (
        "{hero} sat in the {hero.home} and waited.",
        "{hero} passed the time {hero.hobby}, but it was no fun alone.",
        "{hero} took off {hero.his} {hero.wears} and went to bed early.",
    ),
    (
        "But {friend} the {friend.species} had not forgotten {hero}.",
        "All this time {friend} was busy in the {friend.home}.",
    ),
    (
        "{friend} had cooked the whole night, because {hero} loved {hero.food}.",
        "In {friend.his} basket {friend} carried something for {hero}: some {hero.food}.",
    ),
    (
        "{other} the {other.species} had helped and kept the secret.",
        "{other} the {other.species} brought some {other.food} as well.",
    ),
    (
        "In the evening they all came to the {hero.home} and sang for {hero}.",
        "Then {hero} heard steps, and everybody came in at once.",
    ),
    (
        "{hero} put on {hero.his} {hero.wears} and danced with {friend}.",
        "{hero} laughed and cried and hugged {friend} the {friend.species}.",
    ),
)

MAP = (
    (
        "{hero} the {hero.species} found an old map {spot}.",
        "A little {small} gave {hero} the {hero.species} an old map.",
    ),
    (
        "{hero} showed it to {friend}, who was {friend.hobby}.",
        '"It must be a treasure," said {friend} the {friend.species}.',
    ),
    (
        "{hero} packed {hero.food}, and {friend} packed {friend.food}.",
        "{hero} put on {hero.his} {hero.wears}, and {friend} put on {friend.his} {friend.wears}.",
    ),
    (
        "The map led them {there}.",
        "They walked {there} and counted their steps.",
    ),
    (
        "{hero} wanted to turn back when {hero.fear} {hero.event}, but {friend} went on.",
        "{friend} did not want to go on when {friend.fear} {friend.event}, but {hero} helped.",
    ),
    (
        'They found a letter that said, "A good friend is the real treasure."',
        'They found a letter that said, "Share your meal and your joy."',
    ),
    (
        "{hero} took {friend} home to the {friend.home}, and they laughed about it.",
        "{hero} hung the letter on the wall of the {hero.home}.",
    ),
)

PLOTS = (
    SCARED,
    LOST_THING,
    BIRTHDAY,
    ILL,
    SORRY,
    LITTLE_ONE,
    FAIR,
    LOST_WAY,
    COMFORT,
    SURPRISE,
    MAP,
)

MORALS = (
    "A good friend is the best gift of all.",
    "From that day on they helped each other even more.",
    "And they were the best of friends for ever after.",
    "It is good to have somebody who is there for you.",
    "A little kindness can change a whole day.",
    "Two can do what one cannot.",
    "That night they all slept well.",
    "And that is how a bad day became a good one.",
)
