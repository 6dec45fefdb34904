/** What questions are about that the model has to decline. */

const list = (text: string): readonly string[] => text.split(" ");

export const PLACES: readonly string[] = list(
  "France Japan Peru Kenya Norway Canada India Egypt Chile Turkey Vietnam Portugal Germany Italy " +
    "Spain Greece Poland Sweden Finland Iceland Ireland Scotland Austria Hungary Ukraine Russia " +
    "China Mongolia Thailand Indonesia Australia Fiji Mexico Cuba Brazil Argentina Bolivia Colombia " +
    "Ecuador Nigeria Ghana Ethiopia Morocco Tunisia Iran Iraq Israel Lebanon Nepal Pakistan " +
    "Afghanistan London Paris Berlin Rome Madrid Tokyo Moscow Sydney Toronto Chicago Boston Texas " +
    "California Alaska Hawaii Florida Africa Asia Europe Antarctica",
);

export const PEOPLE: readonly string[] = (
  "Napoleon,Cleopatra,Mozart,Marie Curie,Shakespeare,Galileo,Frida Kahlo,Gandhi,Nelson Mandela," +
  "Ada Lovelace,Albert Einstein,Isaac Newton,Charles Darwin,Beethoven,Picasso,Leonardo da Vinci," +
  "Abraham Lincoln,George Washington,Barack Obama,Queen Elizabeth,Julius Caesar,Plato,Socrates," +
  "Aristotle,Martin Luther King,Rosa Parks,Neil Armstrong,Christopher Columbus,Marco Polo," +
  "Alan Turing,Grace Hopper,Steve Jobs,Bill Gates,Taylor Swift,Michael Jordan,Pele,Homer," +
  "Jane Austen,Charles Dickens,Mark Twain,Walt Disney,Vincent van Gogh,Bach,Chopin,Elvis Presley"
).split(",");

export const TOPICS: readonly string[] = (
  "photosynthesis,black holes,the stock market,volcanoes,inflation,vaccines,electric cars," +
  "the French Revolution,chess openings,climate change,quantum physics,jazz music,gravity," +
  "the Second World War,machine learning,artificial intelligence,neural networks,democracy," +
  "evolution,dinosaurs,the Roman Empire,Buddhism,football,basketball,the Olympic Games,cooking," +
  "gardening,love,friendship,happiness,the meaning of life,the ocean,the moon,the sun,Mars," +
  "the solar system,electricity,magnets,atoms,chemistry,biology,philosophy,economics,politics," +
  "history,art,poetry,movies,video games,programming,JavaScript,Python,databases,the internet," +
  "computers,space travel,robots,money,taxes,insurance,health,sleep,exercise,vitamins,the heart," +
  "the brain,cells,DNA,viruses,medicine,dogs,cats,horses,birds,whales,bees,trees,rain,clouds," +
  "earthquakes,rivers,mountains,deserts,glaciers,trains,airplanes,bicycles,coffee,tea,chocolate," +
  "bread,cheese,wine,music,guitars,dancing,painting,architecture,bridges,castles,ancient Egypt," +
  "the Middle Ages,religion,marriage,children,school,university,work,war,peace,freedom,justice"
).split(",");

export const TASKS: readonly string[] = (
  "a poem,a story,an essay,a song,a letter,a recipe,a Python program,a joke,a haiku,an email," +
  "a speech,a report,a short text,a paragraph,a summary,a slogan,a tweet,a limerick,a dialogue," +
  "a blog post,a function,a script,a fairy tale,a few sentences"
).split(",");

export const LANGUAGES: readonly string[] = list(
  "French Spanish German Japanese Arabic Swahili Italian Chinese Russian Portuguese Korean Hindi " +
    "Latin Greek Dutch Polish Turkish English",
);

export const PHRASES: readonly string[] = (
  "good morning,thank you,hello,where is the station,I love you,see you tomorrow,how are you," +
  "the weather is nice,my name is Ana,I am hungry,good night,what time is it,we are friends"
).split(",");

/** Things in the singular, for what is asked of a thing. */
export const THINGS: readonly string[] = list(
  "dog cat horse whale spider bird tree flower computer car plane bridge clock mirror camera " +
    "battery magnet volcano rainbow cloud river mountain planet star comet atom molecule cell " +
    "virus vaccine kidney heart lung muscle bone tooth eye brain king president pope lawyer nurse " +
    "poem novel symphony sonnet guitar piano violin pyramid castle temple church museum stadium " +
    "noun verb adjective metaphor triangle pentagon democracy republic constitution tax loan " +
    "mortgage dictionary wizard dragon unicorn pizza omelette sandwich compiler database router",
);

export const VERBS: readonly string[] = (
  "bake bread,learn the piano,fix a flat tire,boil an egg,tie a tie,make friends,lose weight," +
  "sleep better,write a book,start a business,grow tomatoes,train a dog,paint a wall,fly a kite," +
  "ride a horse,build a house,speak in public,learn English,cook rice,clean a window,find a job," +
  "save money,play chess,draw a face,install Linux,sort a list in Python,center a div"
).split(",");

export const ADJECTIVES: readonly string[] = list(
  "big small old new fast slow heavy light strong weak bright dark loud quiet hot cold expensive " +
    "cheap dangerous safe beautiful ugly famous rare common healthy deep tall long wide",
);
