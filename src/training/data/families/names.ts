/** Names and things that problems are about. */

export const NAMES: readonly string[] = (
  "Tom Ana Lily Sam Maya Omar Nina Leo Zoe Ivan Ruth Kai Mona Eli Tara Hugo Aisha Ben Chen Dora " +
  "Emil Fatima Gina Henry Ines Jonas Kofi Lena Marco Nora Oskar Priya Ravi Sofia Theo Uma Viktor " +
  "Wanda Yusuf Zara"
).split(" ");

export const THINGS: readonly string[] =
  ("apples marbles books coins stickers eggs pencils shells cards stamps cookies stones balloons " +
    "buttons oranges flowers beads toys bottles crayons").split(" ");

export const CONTAINERS: readonly string[] = "boxes bags baskets jars shelves packs".split(" ");

/** Made-up plurals: nothing about them can be known from elsewhere. */
export const CREATURES: readonly string[] =
  ("blips dorns fubs glims hobbs jents kreels lomps mirps norgs plims quags rells snerps tovs " +
    "urds vints wugs yorps zimps").split(" ");

/** Words to take apart, of 3 to 9 letters. */
export const WORDS: readonly string[] = (
  "cat dog sun map pen cup hat box tree book fish bird lamp ring door snow wind rain leaf milk " +
  "apple bread chair cloud dream eagle flame grape green heart horse house jelly knife lemon light " +
  "money mouse night ocean paper piano plant queen river robot salad sheep smile spoon stone storm " +
  "sugar table tiger tooth train water whale wheel zebra banana basket bottle bridge butter button " +
  "camera candle carrot castle cheese circle coffee cookie dinner dragon engine family finger flower " +
  "forest garden guitar hammer island jacket ladder letter market mirror monkey mother needle number " +
  "orange parrot pencil pepper pillow planet pocket potato puzzle rabbit saddle salmon school shadow " +
  "silver spider spring summer sunset tomato tunnel turtle valley violin walnut window winter yellow " +
  "balloon blanket brother chicken country diamond dolphin evening feather giraffe hamster journey " +
  "kitchen library morning natural octopus penguin picture rainbow science sister station sunrise " +
  "teacher thunder traffic vacation village weather whisper mountain elephant umbrella sandwich " +
  "hospital keyboard language notebook sentence building children computer dinosaur football " +
  "strawberry butterfly chocolate crocodile adventure astronaut beautiful breakfast classroom " +
  "dangerous education furniture geography happiness important jellyfish knowledge lighthouse"
).split(" ").filter((word) => word.length <= 9);
